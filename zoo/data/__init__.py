"""The room of data: every source a user has becomes one thing, a `Table`, and what is wrong is said before training.

    read(source)            a folder, a CSV or Parquet file, a Hugging Face or torch data set  ->  Table
    check_labels(table, …)  refuses columns that nothing can be learned from
    split_table(table, …)   train, validation and test: as given, or drawn by a seed, stratified

Importing this room imports neither torch nor pandas, pyarrow, datasets or PIL.
"""

from zoo.data.batching import PRESENT, batched, placed, prepared
from zoo.data.columns import Column, Kind, Value
from zoo.data.handing import Inputs, Preparer, as_rows
from zoo.data.labels import check_labels
from zoo.data.masks import Masks, open_mask, picture_size
from zoo.data.pictures import UnreadableSample
from zoo.data.reading import read
from zoo.data.samples import BytesSample, DatasetSample, FileSample, PictureSample, Sample, TensorSample, TextSample
from zoo.data.splitting import split_table
from zoo.data.table import Skipped, Table

__all__ = [
    "BytesSample",
    "Column",
    "DatasetSample",
    "FileSample",
    "Inputs",
    "Kind",
    "Masks",
    "PRESENT",
    "PictureSample",
    "Preparer",
    "Sample",
    "Skipped",
    "Table",
    "TensorSample",
    "TextSample",
    "UnreadableSample",
    "Value",
    "as_rows",
    "batched",
    "check_labels",
    "open_mask",
    "picture_size",
    "placed",
    "prepared",
    "read",
    "split_table",
]
