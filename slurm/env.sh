# What every job needs before srun: sourced by the scripts in this folder, on the first node of a job.
# Site settings (modules, network interfaces, proxies) belong here.

cd "${SLURM_SUBMIT_DIR:-$PWD}"
MVREC=${MVREC:-$PWD/.venv/bin/mvrec}
if [ ! -x "$MVREC" ]; then
    echo "mvrec: error: there is no $MVREC on $(hostname): make test sets it up, or export MVREC=/path/to/mvrec" >&2
    exit 2
fi

# mvrec computes and loads with the cores that Slurm gives a task, whose number srun does not take from sbatch since 22.05.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    export SRUN_CPUS_PER_TASK=${SRUN_CPUS_PER_TASK:-$SLURM_CPUS_PER_TASK}
fi
export PYTHONFAULTHANDLER=1
# A compiled cache saves seconds at every start; some sites forbid it by this variable.
unset PYTHONDONTWRITEBYTECODE

# Where the processes meet. A preset address wins: on some sites NodeAddr is in a network for management.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show node "$first" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')}
export MASTER_PORT=${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}
# torch waits for an address that does not resolve until the time limit, without a word.
if ! getent ahosts "$MASTER_ADDR" >/dev/null; then
    echo "mvrec: error: MASTER_ADDR=$MASTER_ADDR does not resolve on $(hostname): export MASTER_ADDR before sbatch" >&2
    exit 2
fi

# One directory per job and array task; the same after a requeue, so that the run continues there.
job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
RUN_DIR=${RUN_DIR:-runs/$SLURM_JOB_NAME-$job}

# The number of processes per node is Slurm's to say; mvrec takes it over.
LAUNCH=(--trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.devices "$SLURM_NTASKS_PER_NODE")
echo "mvrec: job $job on $SLURM_JOB_NODELIST, start ${SLURM_RESTART_COUNT:-0}, meeting at $MASTER_ADDR:$MASTER_PORT, $RUN_DIR"
