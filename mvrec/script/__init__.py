"""The command line from a script: training and testing as functions."""

from mvrec.machine import let_waiting_threads_sleep
from mvrec.machine.large_pages import use_large_pages

let_waiting_threads_sleep()  # before the modules of this package import torch
use_large_pages()
