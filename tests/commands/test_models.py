from mvrec.published import PUBLISHED


def test_the_table_has_a_row_for_every_network_and_a_pattern_picks_some(command) -> None:
    code, out, _ = command("models")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()[:1] and line.split()[0] in PUBLISHED}
    assert list(rows) == list(PUBLISHED)
    assert rows["mvit_v2_l_40x3"].split()[1:5] == ["40x312x312", "213,390,112", "2823.4", "86.1"]
    assert rows["mvit_b_16x4"].endswith("SlowFast, pytorchvideo, torchvision")
    assert rows["shunted_s"].split()[1:6] == ["224x224", "22,401,256", "4.99", "82.9", "ImageNet-1k"]
    _, out, _ = command("models", "cloformer_*")
    names = [line.split()[0] for line in out.splitlines() if line.startswith(("clo", "shunted"))]
    assert names == ["cloformer_xxs", "cloformer_xs", "cloformer_s"]
