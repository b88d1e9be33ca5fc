"""The study engine: a study is networks and questions; every result is kept under the hash of its spec.

specs     frozen specs and their keys            resolve   spec -> data, weights, predict
registry  what a study can name                  make      how each kind is made, in groups
store     put, get, checksum, lock, gc           plan      demand -> what is missing -> groups
config    config -> study, all mistakes at once  run       who makes the groups; cluster: Dask
views     what is asked, how it is drawn         cli       one command
"""

from transferjax import extras

extras.require_all("study", "transferjax.study")
