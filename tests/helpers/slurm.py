"""A cluster's commands, played by scripts."""

from pathlib import Path


def command_file(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


SBATCH = """
for file in "$JOBS"/*.pid; do
  [ -e "$file" ] && kill -0 -- -"$(< "$file")" 2> /dev/null && echo 'sbatch: error: QOSMaxSubmitJobs' >&2 && exit 1
done
id=$((1 + $(ls "$JOBS" | grep -c pid)))
SLURM_JOB_ID=$id setsid bash "$1" > /dev/null 2>&1 < /dev/null &
until kill -0 -- -$! 2> /dev/null; do sleep 0.01; done  # setsid has not happened yet
echo $! > "$JOBS/$id.pid"
echo "Submitted batch job $id"
"""


SRUN = """
while [[ $1 == --* ]]; do
  case $1 in
    --output) out=$2; shift 2 ;;
    --error) err=$2; shift 2 ;;
    *) shift ;;
  esac
done
out=${out//%j/$SLURM_JOB_ID} err=${err//%j/$SLURM_JOB_ID}
exec "$@" > "${out//%t/0}" 2> "${err//%t/0}"
"""


SQUEUE = """
for file in "$JOBS"/*.pid; do
  name=${file##*/}
  kill -0 -- -"$(< "$file")" 2> /dev/null && echo "${name%.pid} RUNNING" || echo "${name%.pid} NODE_FAIL"
done
"""


SCANCEL = 'kill -- -"$(< "$JOBS/$1.pid")"'


COMMANDS = {"sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE, "scancel": SCANCEL}
