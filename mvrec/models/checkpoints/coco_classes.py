"""The classes of COCO's objects (Lin et al. 2014, arXiv 1405.0312), for files of detectors that do not name theirs."""

# In the order of their numbers in COCO's files, from 1, ten in a row; numbers without a name have no objects.
_ROWS = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light
fire hydrant, , stop sign, parking meter, bench, bird, cat, dog, horse, sheep
cow, elephant, bear, zebra, giraffe, , backpack, umbrella, ,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove
skateboard, surfboard, tennis racket, bottle, , wine glass, cup, fork, knife, spoon
bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut
cake, chair, couch, potted plant, bed, , dining table, , , toilet
, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster
sink, refrigerator, , book, clock, vase, scissors, teddy bear, hair drier, toothbrush
"""
_NAMES = [name.strip() for row in _ROWS.strip("\n").splitlines() for name in row.split(",")]
NAMES_BY_ID = {number: name for number, name in enumerate(_NAMES, 1) if name}
