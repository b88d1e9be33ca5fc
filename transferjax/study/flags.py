"""The command's flags, and its short help: without JAX, so that who asks for help has it at once."""

from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/<file>.py[:variant]; override scalars with --config.x=y", lock_config=False
)
STORE = flags.DEFINE_string("store", "", "where results are kept, of any number of studies")
VIEWS = flags.DEFINE_list("views", [], "draw and make only what these views need; all by default")
NETWORKS = flags.DEFINE_list(
    "networks", [], "pack: the networks with these labels, instead of what views read"
)
DRY = flags.DEFINE_bool("dry_run", False, "say what is there and what is missing; compute nothing")
JSON = flags.DEFINE_bool("json", False, "end with one line of JSON: made, found, missing, failed")
LIST = flags.DEFINE_bool("list", False, "list the config's networks, attacks, blocks and views")
WORKERS = flags.DEFINE_integer("workers", 0, "make results with so many worker processes here (Dask)", 0)
SCHEDULER = flags.DEFINE_string("scheduler", "", "make results on the workers of this Dask scheduler")
AGE = flags.DEFINE_float("min_age_hours", 24.0, "gc: spare what is younger", 0.0)
DROP = flags.DEFINE_string("drop", "", "gc: forget this study first; what it alone needed is garbage then")
GRACE = flags.DEFINE_float(
    "grace", 30.0, "seconds from Ctrl-C or SIGTERM, after which it stops at the next step, to the very end"
)
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, for several processes")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes there are", 1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this is, from 0", 0)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "join the other processes of a cluster that says who they are (Slurm, TPU pods, …)"
)

USAGE = """usage: transferjax study --store=DIR --config=FILE[:VARIANT] [flags]   make a study and its report
       transferjax study --store=DIR ls                           what is stored
       transferjax study --store=DIR why KEY|LABEL [--config=…]   what a result is, and who needs it
       transferjax study --store=DIR gc [--drop=STUDY]            remove what no study needs
       transferjax study --store=DIR pack FILE --config=…         what its views read, in one small file
                                       [--networks=LABEL,…]       or these networks of it
       transferjax study --store=DIR unpack FILE                  into this store
       transferjax quickstart [flags]                             a study of handwritten digits

examples:
  transferjax quickstart --dry_run
  transferjax study --store=runs/store --config=configs/sp2024.py:cpu --list
  transferjax study --store=runs/store --config=configs/sp2024.py:cpu,seeds=1 --views=table2 --workers=2
  transferjax study --store=runs/store --config=configs/digits.py --config.batch_size=64

flags (--helpfull has those of the libraries too):"""


def helped(arguments: Sequence[str]) -> bool:
    """Prints the short help, if it is asked for."""
    if not {"--help", "-help", "--h", "-h"} & {*arguments}:
        return False
    print(USAGE)
    for flag in sorted(flags.FLAGS.get_key_flags_for_module(__name__), key=lambda flag: flag.name):
        usual = f" (default: {flag.default})" if flag.default not in (None, "", False, []) else ""
        print(f"  --{flag.name:15} {flag.help}{usual}")
    return True
