"""The package as people use it, on the small fixture model. Run by `tools/wheel`.

Needs numpy and pandas; with transformers and torch, what was written is opened there, too.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import numpy

import adapruner

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "models" / "tiny"


def transformers():
    """torch and the class that opens a folder; None where they are not installed, which is
    recorded where the program's own tests record what they skip."""
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError:
        record = os.environ.get("ADAPRUNER_SKIPPED")
        if record:
            with open(record, "a") as lines:
                lines.write("the Python package beside transformers: run tools/wheel release torch transformers\n")
        return None
    return torch, AutoModelForCausalLM


def perplexity(model, ids, torch) -> float:
    """Of the next tokens of all rows together."""
    with torch.no_grad():
        rows = torch.from_numpy(ids)
        logits = model(rows).logits[:, :-1].double()
        return math.exp(
            torch.nn.functional.cross_entropy(
                logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1)
            )
        )


class Package(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.calibration = FIXTURES / "calibration.txt"

    def prune(self, out: Path, **more):
        return adapruner.prune(
            FIXTURES, ratio=0.2, calibration=self.calibration, fast=True, out=out, **more
        )

    def test_a_model_is_pruned_measured_and_compared(self) -> None:
        dense = adapruner.inspect(FIXTURES)
        seen: list[tuple[str, int, int, str]] = []
        out = self.folder / "smaller"
        result = self.prune(out, layout="uniform", progress=lambda *event: seen.append(event))
        self.assertTrue(seen)
        self.assertTrue(all(0 <= done <= whole for _, done, whole, _ in seen))
        pruned = adapruner.inspect(out)
        self.assertLess(pruned["parameters"], 0.85 * dense["parameters"])
        self.assertEqual(result["manifest"]["parameters"], pruned["parameters"])
        table = adapruner.compare_models(
            FIXTURES, out, text=[FIXTURES / "text.txt"], window=32, limit=4, progress=False
        )
        self.assertIsInstance(table, dict)

    def test_ids_of_an_array_are_those_of_a_text(self) -> None:
        ids = numpy.arange(4 * 32).reshape(4, 32) % 500
        ours = adapruner.evaluate(FIXTURES, input_ids=ids)
        again = adapruner.evaluate(FIXTURES, input_ids=ids.tolist())
        self.assertEqual(ours["perplexity"], again["perplexity"])
        if (found := transformers()) is None:
            return
        torch, opener = found
        model = opener.from_pretrained(FIXTURES, dtype=torch.float32)
        theirs = perplexity(model, ids, torch)
        self.assertAlmostEqual(ours["perplexity"], theirs, delta=1e-3 * theirs)

    def test_what_was_written_opens_in_transformers(self) -> None:
        if (found := transformers()) is None:
            self.skipTest("transformers is not installed")
        torch, opener = found
        ids = numpy.arange(2 * 32).reshape(2, 32) % 500
        for layout in ["uniform", "per-layer"]:
            out = self.folder / layout
            self.prune(out, layout=layout, save_dtype="f32")
            ours = adapruner.evaluate(out, input_ids=ids)["perplexity"]
            model = opener.from_pretrained(
                out, dtype=torch.float32, trust_remote_code=layout == "per-layer"
            )
            theirs = perplexity(model, ids, torch)
            self.assertAlmostEqual(ours, theirs, delta=1e-4 * theirs)

    def test_a_study_is_rows(self) -> None:
        study = self.folder / "study"
        texts = (FIXTURES / "text.txt").read_text()
        (self.folder / "validation.txt").write_text(texts)
        adapruner.search(
            FIXTURES, ratio=0.2, calibration=self.calibration, text=self.folder / "validation.txt",
            samples=8, sample_tokens=32, window=32, limit=4, trials=5, study=study,
        )
        found = adapruner.Study(study)
        self.assertEqual(len(found.rows), 5)
        self.assertEqual([row["number"] for row in found.rows], list(range(5)))
        self.assertIn("alpha1", found.rows[-1])
        losses = [row["loss"] for row in found.rows if row["state"] == "complete"]
        self.assertEqual(found.best["loss"], min(losses))
        found.apply(FIXTURES, out=self.folder / "applied")
        self.assertTrue((self.folder / "applied" / "model.safetensors").is_file())

    def test_refusals_are_errors_with_hints(self) -> None:
        with self.assertRaises(adapruner.Error) as missing:
            adapruner.inspect(self.folder / "none")
        self.assertIn("none", missing.exception.message)
        shutil.copytree(FIXTURES, self.folder / "model")
        with self.assertRaises(adapruner.Error) as near:
            adapruner.inspect(self.folder / "modle")
        self.assertIn("did you mean", near.exception.hint)
        with self.assertRaises(adapruner.UsageError):
            adapruner.prune(FIXTURES, layout="unifrom", ratio=0.2, out=self.folder / "out")
        with self.assertRaises(TypeError):
            adapruner.prune(FIXTURES, rato=0.2)
        with self.assertRaises(ValueError):
            adapruner.evaluate(FIXTURES, input_ids=[[1, 2], [3]])

    def test_other_threads_go_on_meanwhile(self) -> None:
        ticks = []
        done = threading.Event()

        def tick() -> None:
            while not done.wait(0.001):
                ticks.append(time.monotonic())

        thread = threading.Thread(target=tick)
        thread.start()
        self.prune(self.folder / "out")
        done.set()
        thread.join()
        self.assertGreater(len(ticks), 10)

    def test_an_interrupt_stops_the_command(self) -> None:
        code = (
            "import adapruner, signal, sys\n"
            # Whoever runs the tests may ignore interrupts, and children inherit that.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "try:\n"
            "    adapruner.recover(sys.argv[1], data=sys.argv[2], epochs=10000, out=sys.argv[3],"
            " progress=lambda *event: print('at', flush=True))\n"
            "except KeyboardInterrupt:\n"
            "    print('interrupted', flush=True)\n"
        )
        words = [FIXTURES, FIXTURES / "text.txt", self.folder / "out"]
        child = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        )
        self.assertEqual(child.stdout.readline(), "at\n")
        child.send_signal(signal.SIGINT)
        rest = child.communicate(timeout=60)[0]
        self.assertIn("interrupted", rest)
        self.assertFalse((self.folder / "out").exists())

    def test_a_callback_that_raises_ends_the_command(self) -> None:
        def refuse(*event) -> None:
            raise LookupError("enough")

        with self.assertRaises(LookupError):
            self.prune(self.folder / "out", progress=refuse)

    def example(self, name: str, *words: object) -> str:
        """What an example prints."""
        path = Path(__file__).resolve().parents[1] / "examples" / f"{name}.py"
        ran = subprocess.run(
            [sys.executable, path, *map(str, words)], capture_output=True, text=True
        )
        self.assertEqual(ran.returncode, 0, f"{ran.stdout}\n{ran.stderr}")
        return ran.stdout

    def test_the_examples_run(self) -> None:
        text = FIXTURES / "text.txt"
        (self.folder / "validation.txt").write_text(text.read_text())
        budget = self.folder / "budget"
        said = self.example("fit_a_budget", FIXTURES, self.calibration, text, budget)
        self.assertIn("perplexity", said)
        self.assertIn("<html", (budget / "page.html").read_text())
        study = self.folder / "search"
        lines = [self.calibration, self.folder / "validation.txt", text, study, 5]
        self.assertIn("perplexity", self.example("search_as_table", FIXTURES, *lines))
        self.assertTrue((study / "study.html").is_file())
        if transformers() is not None:
            beside = self.folder / "beside"
            said = self.example("beside_transformers", FIXTURES, self.calibration, beside)
            self.assertIn("greedy tokens", said)

    def test_every_command_is_documented(self) -> None:
        for name in adapruner.__all__:
            if name == "UsageError":
                continue
            self.assertTrue(inspect.getdoc(getattr(adapruner, name)), name)
        said = subprocess.run(
            [adapruner.program(), "inspect", FIXTURES, "--json"], capture_output=True, check=True
        )
        self.assertEqual(json.loads(said.stdout), adapruner.inspect(FIXTURES))


if __name__ == "__main__":
    os.environ["ADAPRUNER_PROGRESS"] = "off"
    unittest.main(verbosity=2)
