"""Videos are answered frame by frame."""

import sys

import cv2
import numpy as np
import pytest

from pocketvit.deployment import predict as predicting
from pocketvit.deployment import predict_images
from pocketvit.deployment.video import frames, is_video

SHADES = (20, 90, 160, 230, 60)


@pytest.fixture
def clip(tmp_path):
    """Five frames, redder from one to the next but the last; lossless, so that answers are those of the pictures."""
    path = tmp_path / "clip one.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 5, (48, 40))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no FFV1")
    for shade in SHADES:
        frame = np.full((40, 48, 3), 30, np.uint8)
        frame[..., 2] = shade  # red comes last in OpenCV
        writer.write(frame)
    writer.release()
    return path


def test_frames_are_rgb_and_numbered(clip):
    found = list(frames(clip))
    assert [name for name, _ in found] == [f"{clip}#{number:06}" for number in range(len(SHADES))]
    for (_, frame), shade in zip(found, SHADES, strict=True):
        assert frame.shape == (40, 48, 3)
        assert frame.dtype == np.uint8
        assert np.abs(frame.astype(int) - [shade, 30, 30]).max() <= 4
    assert is_video("A.MP4")
    assert not is_video("mp4.png")


def test_a_video_is_answered_as_its_frames_and_drawn_in_their_order(plain, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(predicting, "_HELD", 2 * 40 * 48 * 3)  # bytes: three frames at a time
    answers = predict_images(plain.int8, [clip], save=tmp_path / "drawn")
    alone = predict_images(plain.int8, [frame for _, frame in frames(clip)])
    assert [one.answer for one in answers] == [one.answer for one in alone]
    assert answers[3].file == f"{clip}#000003"
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [
        f"clip one-{number:06}.jpg" for number in range(len(SHADES))
    ]


def test_what_is_no_video_is_reported_and_the_others_go_on(plain, clip, tmp_path, monkeypatch):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    answers = predict_images(plain.int8, [broken, clip])
    assert "is no video that OpenCV reads" in answers[0].error
    assert answers[0].file == str(broken)
    assert len(answers) == 1 + len(SHADES)
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert "pip install 'pocketvit[video]'" in predict_images(plain.int8, [clip])[0].error


def test_a_video_that_was_cut_off_is_answered_as_far_as_it_goes_with_a_warning(tmp_path, caplog):
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MJPG")
    noise = np.random.default_rng(0)
    for _ in range(20):
        writer.write(noise.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    assert len(list(frames(path))) == 20
    assert not caplog.records
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    found = list(frames(path))
    assert 0 < len(found) < 20
    assert f"cut.avi ends after {len(found)} of the 20 frames that it states" in caplog.text
