"""Runs on disk: the only room that reads or writes them."""

from advbench.runs.files import check_folder, inside, read_note, remove, text_of, write_whole
from advbench.runs.rows import ATTACK_KEYS, Row, attack_row, model_row
from advbench.runs.run import MANIFEST, SCHEMA, SUPPLIED, Run, find, holds_run, load, open_or_new, strays
from advbench.runs.sealed_json import digest, sealed, sha256, to_json
