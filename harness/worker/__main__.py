"""`python -m harness.worker JOB`: how torchrun starts a rank."""

import sys

from harness.worker.rank import main

if __name__ == "__main__":
    main(sys.argv[1])
