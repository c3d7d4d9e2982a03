from pocketvit.training import read_metrics


def test_a_line_that_a_kill_cut_short_and_what_is_no_line_of_ours_end_the_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n3\n{"epoch": 2, "lo')
    assert read_metrics(path) == [{"epoch": 1}]
    path.write_text('{"epoch": 1}\n{"epoch": 2, "lo\n{"epoch": 3}\n')
    assert read_metrics(path) == [{"epoch": 1}]


def test_without_a_file_there_are_no_metrics(tmp_path):
    assert read_metrics(tmp_path / "absent") == []
    assert read_metrics(tmp_path) == []
