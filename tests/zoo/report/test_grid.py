"""The picture grid, pixel by pixel where it matters."""

import os

import numpy as np
import pytest
from PIL import Image

from zoo.data import BytesSample, PictureSample
from zoo.errors import ConfigError, DataError
from zoo.report.grid import BAD, GOOD, INK, LINE, Cell, draw_grid

GAP, SIDE = 12, 60


def cell(colour="red", *lines, size=(80, 80)):
    return Cell(PictureSample(colour, Image.new("RGB", size, colour)), lines)


def drawn(cells, path, **options):
    with Image.open(draw_grid(cells, path, **{"side": SIDE, **options})) as sheet:
        return np.asarray(sheet.convert("RGB"))


def test_the_sheet_has_room_for_every_row_of_pictures_and_lines(tmp_path):
    sheet = drawn([cell("red", ("a", True), ("b", None))] * 5, tmp_path / "grid.png", columns=2)

    height = SIDE + 2 * LINE + 6 + GAP
    assert sheet.shape == (3 * height + GAP, 2 * (SIDE + GAP) + GAP, 3)


def test_pictures_stand_in_reading_order_on_white(tmp_path):
    colours = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}

    sheet = drawn([cell(colour) for colour in colours], tmp_path / "grid.png", columns=2)

    middle = GAP + SIDE // 2
    step_x, step_y = SIDE + GAP, SIDE + 6 + GAP
    found = [tuple(sheet[middle + y * step_y, middle + x * step_x]) for y, x in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert found == [*colours.values(), (255, 255, 255)]
    assert (sheet[:GAP] == 255).all()
    assert (sheet[:, :GAP] == 255).all()


def test_a_picture_keeps_its_proportions_and_stands_in_the_middle(tmp_path):
    sheet = drawn([cell("red", size=(200, 100))], tmp_path / "grid.png", columns=1)

    rows, columns = np.nonzero((sheet == (255, 0, 0)).all(axis=2))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (SIDE // 2, SIDE)
    assert rows.min() == GAP + SIDE // 4


@pytest.mark.parametrize(("right", "colour"), [(True, GOOD), (False, BAD), (None, INK)])
def test_right_lines_are_green_and_wrong_ones_red(tmp_path, right, colour):
    sheet = drawn([cell("white", ("MMMM", right))], tmp_path / "grid.png", columns=1)

    text = sheet[GAP + SIDE :].reshape(-1, 3)
    assert (text == colour).all(axis=1).any()
    others = {GOOD, BAD, INK} - {colour}
    assert not any((text == other).all(axis=1).any() for other in others)


def test_a_long_line_is_cut_at_the_width_of_its_picture(tmp_path):
    sheet = drawn([cell("white", ("W" * 100, None)), cell("white")], tmp_path / "grid.png", columns=2)

    beside = sheet[:, GAP + SIDE + 1 :]
    assert (beside == 255).all()
    assert (sheet[GAP + SIDE :] < 128).any()


def test_a_line_break_in_a_label_becomes_a_blank(tmp_path):
    broken = drawn([cell("white", ("a\nb", None))], tmp_path / "broken.png")
    blank = drawn([cell("white", ("a b", None))], tmp_path / "blank.png")

    assert (broken == blank).all()


def test_missing_folders_are_made_and_nothing_else_is_left(tmp_path):
    path = draw_grid([cell()], tmp_path / "new" / "grid.png")

    assert os.listdir(path.parent) == ["grid.png"]


def test_a_failing_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = draw_grid([cell()], tmp_path / "grid.png")
    before = path.read_bytes()

    def full(self, target, format):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)

    with pytest.raises(OSError, match="No space"):
        draw_grid([cell("blue")], path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["grid.png"]


def test_a_picture_that_cannot_be_read_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(DataError, match="torn"):
        draw_grid([cell(), Cell(BytesSample("torn", b"no picture"), ())], tmp_path / "grid.png")

    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("cells", "options"), [(0, {}), (1, {"columns": 0}), (1, {"side": 0})])
def test_a_grid_of_nothing_is_refused(tmp_path, cells, options):
    with pytest.raises(ConfigError, match="A grid needs cells, columns and a side above 0"):
        draw_grid([cell()] * cells, tmp_path / "grid.png", **options)
