"""Single frames: folders of them, and their times."""
