#!/usr/bin/env bash
# Workers of a study as Slurm jobs, submitted from the project's folder:
#
#   sbatch --array=0-15 --gpus-per-task=1 cluster/slurm.sh hn
#   sbatch --array=0-15 --cpus-per-task=4 --time=4:00:00 --partition=spare cluster/slurm.sh hn --workers 2
#
# What stands behind the script goes to `python -m service workers`. The study is made before; storage and artifacts
# are where HPTUNE_STORAGE_URL and HPTUNE_ARTIFACTS say, which every node must reach, as it must this folder. A job ends
# when the study's trials are used up. One that is preempted, loses its node or comes near its time limit hands its
# trials back and is queued again. HPTUNE_PYTHON is another Python than .venv's; HPTUNE_APPTAINER an image to run in,
# made by: apptainer build hptune.sif docker-daemon://hptune-worker:latest
#SBATCH --job-name=hptune
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail

root=${SLURM_SUBMIT_DIR:-$PWD} # Slurm runs a copy of this file
[ -f "$root/service/__main__.py" ] || {
  echo "error: $root: not the project's folder, from which the job is to be submitted" >&2
  exit 2
}
cd "$root"
if [ -n "${HPTUNE_APPTAINER:-}" ]; then
  command=(apptainer exec --nv "$HPTUNE_APPTAINER" python)
else
  command=("${HPTUNE_PYTHON:-.venv/bin/python}")
fi
# the number of one task of an array may be that of the whole array as well
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun no longer inherits it

ending=
# 120 s before the time limit; the steps get the signal, this shell does not
trap 'ending=yes; scancel --signal=TERM "$job"' USR1
trap : TERM # the workers have it too, and save

# under srun, as Slurm sends SIGTERM to steps and not to what the batch shell has started
srun "${command[@]}" -m service workers "$@" &
step=$! status=0
while :; do
  status=0
  wait "$step" || status=$?
  kill -0 "$step" 2>/dev/null || break # otherwise a signal has ended the waiting, not the step
done
[ "$status" -ge 128 ] || exit "$status" # the trials are used up, or it has said what is wrong

# Ending now would complete the job. One that was stopped and has saved all waits for Slurm, which queues a preempted job
# again when it takes its node.
if [ "$status" -eq 130 ] && [ -z "$ending" ]; then
  sleep 600 &
  wait $! || true
fi
scontrol requeue "$job"
sleep 600
