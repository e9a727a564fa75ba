"""ADE20K's scene parsing benchmark: 150 classes."""

from pathlib import Path
from typing import Any

from mvrec.data.listing.layouts import Layout
from mvrec.data.listing.mask_layouts import MaskFolders, Naming
from mvrec.data.sets.segmentation.segmentation_data import SegmentationData
from mvrec.data.sets.segmentation.values import ClassList

# Names of the 150 classes, the value 1 first; https://arxiv.org/abs/1608.05442
NAMES = """
wall; building; sky; floor; tree; ceiling; road; bed; windowpane; grass; cabinet; sidewalk; person; earth; door; table;
mountain; plant; curtain; chair; car; water; painting; sofa; shelf; house; sea; mirror; rug; field; armchair; seat;
fence; desk; rock; wardrobe; lamp; bathtub; railing; cushion; base; box; column; signboard; chest of drawers; counter;
sand; sink; skyscraper; fireplace; refrigerator; grandstand; path; stairs; runway; case; pool table; pillow;
screen door; stairway; river; bridge; bookcase; blind; coffee table; toilet; flower; book; hill; bench; countertop;
stove; palm; kitchen island; computer; swivel chair; boat; bar; arcade machine; hovel; bus; towel; light; truck; tower;
chandelier; awning; streetlight; booth; television receiver; airplane; dirt track; apparel; pole; land; bannister;
escalator; ottoman; bottle; buffet; poster; stage; van; ship; fountain; conveyer belt; canopy; washer; plaything;
swimming pool; stool; barrel; basket; waterfall; tent; bag; minibike; cradle; oven; ball; food; step; tank; trade name;
microwave; pot; animal; bicycle; lake; dishwasher; screen; blanket; sculpture; hood; sconce; vase; traffic light; tray;
ashcan; fan; pier; crt screen; plate; monitor; bulletin board; shower; radiator; glass; clock; flag
"""
CLASSES = tuple(name.strip() for name in NAMES.replace("\n", " ").split(";"))


class ADE20K(SegmentationData):
    """Images of `images/training/` and `images/validation/` with masks in `annotations/`, as the benchmark has them.

    The value 0 is of no class and not labelled; the classes have the values 1 to 150. `test` and `predict` read the
    validation images.

    Args:
        root: `ADEChallengeData2016`, or the folder that holds it.
        reduce_zero_label: See `SegmentationData`.
        **knobs: See `SegmentationData`.

    Raises:
        UserError: See `SegmentationData`.
    """

    def __init__(self, root: str, *, reduce_zero_label: bool = True, **knobs: Any) -> None:
        super().__init__(root, reduce_zero_label=reduce_zero_label, **knobs)

    def find_layout(self) -> Layout:
        """Return the folders of the release."""
        return MaskFolders(inner_root(self.root, "ADEChallengeData2016"), Naming(), root=self.root)

    def class_list(self) -> ClassList:
        """Return the 150 classes, unless the arguments name others."""
        if self.classes is not None:
            return super().class_list()
        return ClassList(CLASSES, ignored=self.ignored, zero_is_none=self.reduce_zero_label)


def inner_root(root: Path, *names: str) -> Path:
    """Return the folder of a release: the first existing of some below a root, else the root itself."""
    return next((root / name for name in names if (root / name).is_dir()), root)
