"""Runs a study: trains, attacks, measures what its views need and draws them.

python -m experiments.study --config=configs/digits.py --store=runs/store
"""

from transferjax.study import cli

if __name__ == "__main__":
    cli.main()
