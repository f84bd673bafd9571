"""Make the demo model: `python -m scripts.demo_training COMMAND --run FOLDER`.

The commands, in order, are `tokenizer`, `train`, `export` and `evaluate`; `check` compares the
network with transformers. The folder of a run holds tokenizer.json and latest.pt; `export` writes a
checkpoint in the Hugging Face layout. Training stops at its wall-clock limit and can be resumed:

    python -m scripts.demo_training tokenizer --run runs/demo
    python -m scripts.demo_training train --run runs/demo --preset gpu --device cuda \
        --tokens 32768 --workers 12 --minutes 8
    python -m scripts.demo_training export --run runs/demo --out runs/demo/export
    python -m scripts.demo_training evaluate --run runs/demo --out runs/demo/export

`train --start FOLDER` goes on from the weights of an exported checkpoint, with its tokenizer:
FOLDER may be what `qwen35-convert --hf-path demo --dequantize --mlx-path FOLDER` writes.
"""

import argparse
import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path

MAX_LENGTH = 8192


def make_tokenizer(args: argparse.Namespace) -> None:
    """Train a tokenizer on generated conversations."""
    from tokenizers import Tokenizer, models

    from scripts.demo_training.dialogues import Mix, generate
    from scripts.demo_training.text import ChatFormat, train_tokenizer, write_configs

    args.run.mkdir(parents=True, exist_ok=True)

    text = ChatFormat(Tokenizer(models.BPE()))
    conversations = itertools.islice(generate(1, Mix(turns=12, sentences=40)), 12000)
    tokenizer = train_tokenizer(
        (text.render(c.messages, tools=c.tools or None) for c in conversations), args.vocab
    )
    tokenizer.save(str(args.run / "tokenizer.json"))
    write_configs(args.run, MAX_LENGTH)


def train(args: argparse.Namespace) -> None:
    """Train until the time limit; under torchrun, with several processes."""
    import torch
    from tokenizers import Tokenizer

    from scripts.demo_training.shape import PRESETS
    from scripts.demo_training.train import Plan, Trainer

    if args.device == "cpu":
        torch.set_num_threads(args.threads)
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo")
    plan = Plan(args.minutes, args.call_minutes or args.minutes, args.tokens, args.seed,
                args.muon_lr, args.adam_lr, workers=args.workers)  # fmt: skip
    start = None
    if args.start:
        from scripts.demo_training.run_evaluation import load_export

        args.run.mkdir(parents=True, exist_ok=True)
        shutil.copy(args.start / "tokenizer.json", args.run)
        start = load_export(args.start)
    words = Tokenizer.from_file(str(args.run / "tokenizer.json")).get_vocab_size()
    shape = replace(PRESETS[args.preset], vocab=words)
    trainer = Trainer(shape, plan, args.run, args.device, start)
    if args.resume and trainer.checkpoint.exists():
        trainer.resume()
    total, active = trainer.model.count()
    print(f"{total:,} parameters, {active:,} of them active per token", flush=True)
    trainer.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("tokenizer", "train", "check", "export", "evaluate"):
        command = commands.add_parser(name)
        command.add_argument("--run", type=Path, required=True, help="folder of the run")
        if name == "tokenizer":
            command.add_argument("--vocab", type=int, default=4096)
        if name in ("train", "evaluate"):
            command.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
            command.add_argument("--threads", type=int, default=2, help="CPU threads")
        if name == "train":
            command.add_argument("--preset", default="cpu", choices=("cpu", "gpu"))
            command.add_argument(
                "--minutes", type=float, required=True, help="time limit of all runs together"
            )
            command.add_argument("--call-minutes", type=float, help="time limit of this run")
            command.add_argument("--tokens", type=int, default=8192, help="tokens per step")
            command.add_argument("--seed", type=int, default=1)
            command.add_argument(
                "--workers", type=int, default=0, help="processes that generate data"
            )
            command.add_argument("--muon-lr", type=float, default=0.015)
            command.add_argument("--adam-lr", type=float, default=3e-3)
            command.add_argument("--resume", action="store_true")
            command.add_argument(
                "--start", type=Path, help="go on from the weights of this exported checkpoint"
            )
        if name in ("export", "evaluate"):
            command.add_argument("--out", type=Path, required=True, help="exported checkpoint")
        if name == "evaluate":
            command.add_argument("--count", type=int, default=100, help="questions per skill")
            command.add_argument("--only", default="", help="skills, separated by commas")
            command.add_argument(
                "--bits", type=int, default=0, help="quantise the weights first; 0: do not"
            )
    args = parser.parse_args()
    if args.command == "tokenizer":
        make_tokenizer(args)
    elif args.command == "train":
        train(args)
    elif args.command == "check":
        from scripts.demo_training.check import check

        check(args.run)
    elif args.command == "export":
        from scripts.demo_training.export import export

        export(args.run, args.out, MAX_LENGTH)
    else:
        from scripts.demo_training.run_evaluation import evaluate_run

        evaluate_run(args)


if __name__ == "__main__":
    main()
