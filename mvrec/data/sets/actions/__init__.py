"""The data modules of videos with boxes in key frames."""
