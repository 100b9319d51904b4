"""What the libraries say of themselves."""

import subprocess
import sys

from bench.execute.logging_setup import quiet_libraries


def test_lightning_is_quiet_even_if_it_is_imported_later():
    code = f"from {quiet_libraries.__module__} import quiet_libraries; quiet_libraries()\n"
    code += "from pytorch_lightning import Trainer; Trainer(accelerator='cpu', logger=False)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
