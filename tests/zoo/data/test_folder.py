import shutil

import pytest

from zoo.data import read
from zoo.errors import ConfigError, DataError, UnknownName


def labels(table):
    return table.column("label").values


def names(table, root):
    return [sample.path.relative_to(root).as_posix() for sample in table.inputs["image"]]


def test_class_folders_become_a_text_column_in_sorted_order(pets):
    table = read(pets)

    assert labels(table) == ("cat", "cat", "dog", "dog")
    assert names(table, pets) == ["cat/1.jpg", "cat/2.png", "dog/1.jpg", "dog/2.jpg"]
    assert table.column("label").kind == "text"
    assert table.split is None
    assert table.skipped == ()
    assert table.source == str(pets)


def test_a_folder_may_be_given_as_text(pets):
    assert len(read(str(pets))) == 4


def test_pictures_lie_at_any_depth_and_endings_in_any_case(pets, draw):
    draw("pets/cat/more/deep/3.JPG")
    draw("pets/cat/more/4.Tiff")

    assert labels(read(pets)).count("cat") == 4


def test_hidden_files_and_files_of_other_types_are_left_out(pets, draw):
    draw("pets/cat/.thumb.jpg")
    draw("pets/.cache/x/1.jpg")
    draw("pets/cat/.git/1.jpg")
    (pets / "cat" / "notes.txt").write_text("soft")
    (pets / "README.md").write_text("pets")

    table = read(pets)

    assert len(table) == 4
    assert table.skipped == ()


def test_pictures_beside_class_folders_are_listed(pets, draw):
    stray = draw("pets/stray.jpg")

    table = read(pets)

    assert len(table) == 4
    assert [str(skipped) for skipped in table.skipped] == [f"{stray} (outside any class folder)"]
    with pytest.raises(DataError, match="outside any class folder"):
        read(pets, strict=True)


def test_pictures_without_class_folders_have_no_columns(tmp_path, draw):
    draw("inbox/b.jpg")
    draw("inbox/a.jpg")
    (tmp_path / "inbox" / "empty").mkdir()

    table = read(tmp_path / "inbox")

    assert names(table, tmp_path) == ["inbox/a.jpg", "inbox/b.jpg"]
    assert table.columns == {}


def test_split_folders_give_the_split(pets, tmp_path):
    for part in ("train", "Val", "test"):
        shutil.copytree(pets, tmp_path / "root" / part)

    table = read(tmp_path / "root")

    assert set(labels(table)) == {"cat", "dog"}
    assert sorted(
        set(zip(table.split, [name.split("/")[0] for name in names(table, tmp_path / "root")], strict=True))
    ) == [
        ("test", "test"),
        ("train", "train"),
        ("validation", "Val"),
    ]


def test_a_split_folder_without_class_folders_is_refused(tmp_path, draw):
    draw("root/train/cat/1.jpg")
    draw("root/test/1.jpg")

    with pytest.raises(DataError, match="test' must hold class folders, got 1 pictures and no folders"):
        read(tmp_path / "root")


def test_a_class_that_is_called_like_a_split_is_a_class_among_others(tmp_path, draw):
    draw("root/train/1.jpg")
    draw("root/bus/1.jpg")

    assert labels(read(tmp_path / "root")) == ("bus", "train")


def test_a_class_folder_without_pictures_is_refused_by_name(pets):
    (pets / "fish").mkdir()
    (pets / "fish" / "notes.txt").write_text("none yet")

    with pytest.raises(DataError, match="fish' must have one readable picture or more, got none"):
        read(pets)


def test_a_class_folder_whose_pictures_are_all_unreadable_is_refused_with_the_reasons(pets):
    for path in (pets / "dog").iterdir():
        path.write_bytes(b"")
    (pets / "dogs").mkdir()
    shutil.copy(pets / "cat" / "1.jpg", pets / "dogs" / "1.jpg")

    with pytest.raises(
        DataError, match=r"dog' must have one .* got none: .*1\.jpg \(empty file\); .*2\.jpg \(empty file\)"
    ):
        read(pets)
    assert len(read(pets, check=False)) == 5
    assert len(read(pets, labels=[])) == 3


def test_a_class_may_lose_its_pictures_of_one_split(pets, tmp_path):
    shutil.copytree(pets, tmp_path / "root" / "train")
    shutil.copytree(pets, tmp_path / "root" / "test")
    for path in (tmp_path / "root" / "test" / "dog").iterdir():
        path.write_bytes(b"")

    table = read(tmp_path / "root")

    assert len(table.skipped) == 2
    assert len(table) == len(table.split) == len(labels(table)) == 6


def test_an_empty_folder_is_refused_with_what_is_accepted(tmp_path):
    with pytest.raises(DataError, match=r"must hold pictures .*jpg.* got nothing"):
        read(tmp_path)


def test_a_folder_of_other_files_is_refused_with_their_endings(tmp_path):
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "a.heic").write_bytes(b"x")
    (tmp_path / "b.txt").write_bytes(b"x")

    with pytest.raises(DataError, match=r"files of other types only \(\.heic, \.txt\)"):
        read(tmp_path)


def test_a_folder_has_no_image_or_split_column_to_name(pets):
    with pytest.raises(ConfigError, match=r"got image='path'. Leave image out"):
        read(pets, image="path")
    with pytest.raises(ConfigError, match="Leave split out"):
        read(pets, split="part")


def test_the_only_label_column_of_a_folder_is_label(pets):
    assert read(pets, labels=["label"]) == read(pets)
    with pytest.raises(UnknownName, match=r"no column 'lable'; its columns: label. Did you mean 'label'"):
        read(pets, labels=["lable"])
