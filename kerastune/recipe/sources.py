"""The [data] table: settings for the sources in kerastune/data/sources."""

from datetime import date
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from kerastune.errors import quoted
from kerastune.recipe.base import Count, Fraction, Settings, Text
from kerastune.recipe.paths import AssetOrPath, FilePath

Target = Literal[
    "label", "labels", "number", "pairs", "groups", "scores", "text", "defects", "boxes", "mask", "transcript"
]
Reader = Literal[
    "folder",
    "csv",
    "table",
    "chat",
    "tfds",
    "defects",
    "pairs",
    "coco_boxes",
    "coco_masks",
    "yolo",
    "csv_boxes",
    "tfds_boxes",
    "masks",
    "tfds_masks",
]
Delimiter = Literal[",", ";", "\t", "|"]


class Data(Settings):
    """Settings of every source of data."""

    modality: ClassVar[str] = "image"
    """Row of `kerastune.modalities.MODALITIES` for an example."""
    reader: ClassVar[Reader]
    """Row of `kerastune.data.SOURCES` that reads it."""

    validation_fraction: Fraction = 0.15
    """Fraction of examples held out to select the best epoch, if the source has no validation split."""
    test_fraction: Fraction = 0.15
    """Fraction of examples held out for the final accuracy, if the source has no test split."""
    skip_bad: bool = False
    """Skip unreadable examples (run.json lists them) instead of stopping."""
    per_label: Count | None = None
    """Train on this many examples of each label, drawn by content hash; a larger number keeps those of a smaller one.
    An example with several labels counts for each. Validation and test stay whole. Default: all."""
    per_label_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Another seed makes `per_label` draw other examples."""

    @property
    def target(self) -> Target:
        """Returns the kind of ground truth: one label, any number of labels, a number, or the text itself.

        For embeddings: "pairs" of texts that belong together (optionally with a third that does not), "groups" of texts
        with the same label, or "scores" of how similar two texts are.
        """
        return "label"

    @property
    def paired(self) -> bool:
        """Returns whether an example has two texts."""
        return False

    @property
    def separator(self) -> str | None:
        """Returns the separator between the labels of an example."""
        return None

    @property
    def numeric(self) -> str | None:
        """Returns the name of what is learnt, if it is a number or a transcript."""
        return None

    @property
    def longest(self) -> float | None:
        """Returns the seconds that an example may last, if longer ones cannot be used; None: any length."""
        return None

    @property
    def whole_labels(self) -> bool:
        """Returns whether all examples of a label stay in one split."""
        return False

    @property
    def known_share(self) -> float:
        """Returns the share of each training label's examples that is scored beside the labels of test."""
        return 0.0

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> "Data":
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction + test_fraction = {self.validation_fraction + self.test_fraction:g} "
                "leaves nothing to train on; their sum must be below 1"
            )
        return self


class Labelled(Data):
    """Settings for sources whose examples can have several labels, or a number."""

    label_separator: Text | None = None
    """Separates several labels of an example: with "|", "sport|politics" is two labels."""
    regression: bool = False
    """The label is a number that the model learns to predict."""

    @property
    def target(self) -> Target:
        return "number" if self.regression else "labels" if self.label_separator else "label"

    @property
    def separator(self) -> str | None:
        return self.label_separator

    @model_validator(mode="after")
    def _numbers_are_not_separated(self) -> "Labelled":
        if self.regression and self.label_separator:
            raise ValueError("regression and label_separator exclude each other: a label is either one number or names")
        return self


class Images(Data):
    """Settings of every source of images."""

    image_size: Annotated[int, Field(ge=16, le=4096)] | None = None
    """Side in pixels of the model's square input. Default: the preset's training size."""


class FolderData(Images):
    """Images in one folder per label: path/<label>/*.jpg, or path/{train,validation,test}/<label>/*.jpg."""

    reader: ClassVar[Reader] = "folder"

    source: Literal["folder"]
    path: AssetOrPath
    """Folder that holds the label folders; or a fetched asset."""
    group_folders: bool = False
    """Whether a folder inside a label folder is a group, such as a speaker, a product or a patient:
    path/<label>/<group>/*.jpg. A group stays in one split, whatever its labels are."""


class Listed(Data):
    """Settings for tables with the path of one example's file in each row."""

    reader: ClassVar[Reader] = "csv"
    folder: ClassVar[str]
    """Key of the folder that paths are relative to."""
    file: ClassVar[str]
    """Key that names the column of paths."""
    part: ClassVar[tuple[str, ...]] = ()
    """Keys that name the columns with the start and the end of an example, in seconds; none if files are examples."""

    path: FilePath
    """The table (UTF-8; CSV with a header line)."""
    delimiter: Delimiter = ","
    """Separates the cells of a CSV file."""
    quoting: bool = True
    """Whether cells can be quoted, as in spreadsheets. false: quotes are ordinary characters."""
    label_column: Text = "label"
    split_column: Text | None = None
    """A column that says train, validation or test. Default: split by content hash."""
    group_column: Text | None = None
    """A column that names groups, such as a speaker, a product or a patient. A group stays in one split."""


class CsvImages(Images, Listed):
    """A CSV file with a column of image paths and a column of labels."""

    folder = "images"
    file = "image_column"

    source: Literal["csv"]
    images: FilePath | None = None
    """Folder that image paths are relative to and must stay inside. Default: the CSV file's folder."""
    image_column: Text = "image"


class CsvData(CsvImages, Labelled):
    """A CSV file with a column of image paths and a column of labels or numbers."""

    @property
    def numeric(self) -> str | None:
        return self.label_column if self.regression else None


class Tfds(Data):
    """Settings of every TensorFlow Datasets data set."""

    reader: ClassVar[Reader] = "tfds"

    source: Literal["tfds"]
    name: Text
    """Any TFDS name: "fashion_mnist", "cats_vs_dogs", "my_dataset/config:1.0.0"."""
    data_dir: AssetOrPath | None = None
    """A local TFDS folder, or the name of a fetched asset. Default: TFDS's own folder."""
    train: Text = "train"
    """TFDS split or slice: "train[:2000]"."""
    validation: Text | None = None
    """TFDS split. Default: `validation_fraction` of the training split, by content hash."""
    test: Text | None = None
    """TFDS split. Default: "test" if the data set has one, else `test_fraction` of the training split."""
    label_key: Text = "label"
    group_key: Text | None = None
    """A feature that names groups, such as a speaker, a product or a patient. A group stays in one split."""


class TfdsImages(Tfds, Images):
    """A TensorFlow Datasets data set with an image and a label."""

    image_key: Text = "image"


class TfdsData(TfdsImages, Labelled):
    """A TensorFlow Datasets data set with an image and a label, or a number."""


class Sounds(Data):
    """Settings of every source of sounds."""

    modality = "sound"

    window: Annotated[float, Field(ge=0.1, le=30)] = 5.0
    """Seconds that the model hears at a time, as short as the task allows: cost grows with it. Shorter sounds are
    padded with silence, and of longer ones the first seconds are used."""


class FolderSounds(Sounds):
    """Sounds in one folder per label: path/<label>/*.wav, or path/{train,validation,test}/<label>/*.wav."""

    reader: ClassVar[Reader] = "folder"

    source: Literal["folder"]
    path: AssetOrPath
    """Folder that holds the label folders; or a fetched asset."""
    group_folders: bool = False
    """Whether a folder inside a label folder is a group, such as a speaker, an instrument or a recording:
    path/<label>/<group>/*.wav. A group stays in one split, whatever its labels are."""


class SoundTable(Sounds, Listed):
    """A CSV, JSON Lines or Parquet file with a column of paths of sounds."""

    folder = "sounds"
    file = "audio_column"
    part = ("start_column", "end_column")

    source: Literal["csv", "jsonl", "parquet"]
    sounds: FilePath | None = None
    """Folder that paths are relative to and must stay inside. Default: the table's folder."""
    audio_column: Text = "audio"
    start_column: Text | None = None
    """A column with the second at which an example starts, for several examples in one recording."""
    end_column: Text | None = None
    """A column with the second at which it ends. Empty: at the end of the recording."""


class ListedSounds(SoundTable, Labelled):
    """A CSV, JSON Lines or Parquet file with a column of paths of sounds and a column of labels."""


class Transcripts(SoundTable):
    """A CSV, JSON Lines or Parquet file with a column of paths of sounds and a column of what is said in them."""

    path: AssetOrPath
    """The table (UTF-8; CSV with a header line); or one in a fetched asset: "asterisk-prompts/it.jsonl"."""
    label_column: Text = "text"
    """The column of transcripts."""
    window: Annotated[float, Field(ge=0.1, le=30)] = 30.0
    """Seconds that the model hears at a time: cost grows with it. Shorter sounds are padded with silence; longer ones
    are refused, because their transcripts do not fit."""

    @property
    def target(self) -> Target:
        return "transcript"

    @property
    def numeric(self) -> str:
        return self.label_column

    @property
    def longest(self) -> float:
        return self.window


class TfdsSounds(Tfds, Sounds, Labelled):
    """A TensorFlow Datasets data set with a sound and a label."""

    audio_key: Text = "audio"
    sample_rate: Annotated[int, Field(ge=1000, le=768_000)] | None = None
    """Samples per second, if the data set does not say."""


class Texts(Data):
    """Settings of every source of texts."""

    modality = "text"

    max_length: Annotated[int, Field(ge=4, le=10_000_000)] | None = None
    """Maximum tokens per example, including special ones; longer examples are truncated. Default: the preset's."""


class Table(Texts):
    """Settings for files with one example per row."""

    reader: ClassVar[Reader] = "table"

    source: Literal["csv", "jsonl", "parquet"]
    path: AssetOrPath
    """The file (UTF-8; CSV with a header line), your own or one shipped with a recipe ("tone.jsonl"); or a folder or a
    fetched asset that holds train.csv (or .jsonl, .parquet) and, optionally, validation.csv and test.csv."""
    delimiter: Delimiter = ","
    """Separates the cells of a CSV file."""
    quoting: bool = True
    """Whether cells of a CSV file can be quoted, as in spreadsheets. false: quotes are ordinary characters, as in the
    files of GLUE, Tatoeba and WMT."""
    split_column: Text | None = None
    """A column that says train, validation or test. Default: split by content hash."""
    group_column: Text | None = None
    """A column that names groups, such as a speaker, a product or a patient. A group stays in one split."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns the keys that name the columns with an example's texts."""
        raise NotImplementedError

    @property
    def truth(self) -> str | None:
        """Returns the key that names the column with the ground truth; None if the texts themselves are the truth."""
        return None


class TableData(Table, Labelled):
    """A CSV, JSON Lines or Parquet file with a column of texts and a column of labels."""

    text_column: Text = "text"
    pair_column: Text | None = None
    """A second text, for pairs of sentences."""
    label_column: Text = "label"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("text_column", "pair_column") if self.pair_column else ("text_column",)

    @property
    def truth(self) -> str:
        return "label_column"

    @property
    def paired(self) -> bool:
        return self.pair_column is not None


class TfdsTextData(Tfds, Texts, Labelled):
    """A TensorFlow Datasets data set with a text and a label."""

    text_key: Text = "text"
    pair_key: Text | None = None
    """A second text, for pairs of sentences."""

    @property
    def paired(self) -> bool:
        return self.pair_key is not None


def _date(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError as error:
        raise ValueError(f"{quoted(value)} is no date such as 2026-01-31") from error


class ChatData(Table):
    """A CSV, JSON Lines or Parquet file with a prompt and a response, or a list of messages, in each row."""

    modality = "conversation"
    reader = "chat"

    prompt_column: Text = "prompt"
    response_column: Text = "response"
    messages_column: Text | None = None
    """Instead of the two: a list of {"role", "content"}, where role is system, user, assistant or tool. Every turn of
    the assistant is learnt, but one of weight 0. Also read are {"from", "value"} as ShareGPT has it, contents in parts
    of text, and lists as a JSON text."""
    system: Text | None = None
    """System message for every conversation that has none."""
    today: Annotated[str, AfterValidator(_date)] | None = None
    """The date that a chat template is told if it asks for one: "2026-01-31". Default: the day of training."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("messages_column",) if self.messages_column else ("prompt_column", "response_column")

    @property
    def target(self) -> Target:
        return "text"
