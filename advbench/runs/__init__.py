"""Runs on disk: the only room that reads or writes them."""

from advbench.runs.files import check_folder, inside, read_note, remove, text_of, write_whole
from advbench.runs.json_records import as_json, from_json
from advbench.runs.manifest import Environment, Epoch, ModelRecord, SuppliedRecord, TrainedRecord
from advbench.runs.rows import AdaptiveRow, Attacked, AttackRow, ModelRow, TrainingRow, VerifyRow
from advbench.runs.run import MANIFEST, SCHEMA, Run, find, holds_run, load, open_or_new, strays
from advbench.runs.sealed_json import digest, sealed, sha256, to_json
