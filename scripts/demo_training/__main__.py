"""Make the demo model: `python -m scripts.train_demo {tokenizer,train,check,export,evaluate}`.

A run lives in one folder (`--run`): tokenizer.json, latest.pt, and after `export` the finished
checkpoint in Hugging Face layout. Training stops when its wall-clock budget is used up and can be
resumed, so that it fits into short slots of a borrowed machine:

    python -m scripts.train_demo tokenizer --run runs/demo
    python -m scripts.train_demo train --run runs/demo --preset gpu --device cuda \
        --tokens 32768 --workers 14 --minutes 9
    python -m scripts.train_demo export --run runs/demo --out runs/demo/export
    python -m scripts.train_demo evaluate --run runs/demo --out runs/demo/export
"""

import argparse
import itertools
import os
from pathlib import Path

MAX_LENGTH = 8192


def tokenizer(args: argparse.Namespace) -> None:
    from scripts.demo_training.dialogues import Mix, generate
    from scripts.demo_training.text import Text, train_tokenizer, write_configs

    args.run.mkdir(parents=True, exist_ok=True)
    from tokenizers import Tokenizer, models

    text = Text(Tokenizer(models.BPE()))
    conversations = itertools.islice(generate(1, Mix(turns=12, sentences=40)), 12000)
    made = train_tokenizer(
        (text.render(c.messages, tools=c.tools or None) for c in conversations), args.vocab
    )
    made.save(str(args.run / "tokenizer.json"))
    write_configs(args.run, MAX_LENGTH)


def train(args: argparse.Namespace) -> None:
    import torch

    from scripts.demo_training.shape import PRESETS
    from scripts.demo_training.train import Plan, Trainer

    if args.device == "cpu":
        torch.set_num_threads(args.threads)
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo")
    plan = Plan(args.minutes, args.call_minutes or args.minutes, args.tokens, args.seed,
                args.muon_lr, args.adam_lr, workers=args.workers)  # fmt: skip
    trainer = Trainer(PRESETS[args.preset], plan, args.run, args.device)
    if args.resume and trainer.checkpoint.exists():
        trainer.resume()
    total, active = trainer.model.count()
    print(f"{total:,} parameters, {active:,} of them active per token", flush=True)
    trainer.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("tokenizer", "train", "check", "export", "evaluate"):
        command = commands.add_parser(name)
        command.add_argument("--run", type=Path, required=True, help="folder of the run")
        if name == "tokenizer":
            command.add_argument("--vocab", type=int, default=2048)
        if name in ("train", "evaluate"):
            command.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
            command.add_argument("--threads", type=int, default=2, help="CPU threads")
        if name == "train":
            command.add_argument("--preset", default="cpu", choices=("cpu", "gpu"))
            command.add_argument("--minutes", type=float, required=True, help="whole budget")
            command.add_argument("--call-minutes", type=float, help="at most this long now")
            command.add_argument("--tokens", type=int, default=8192, help="tokens per step")
            command.add_argument("--seed", type=int, default=1)
            command.add_argument("--workers", type=int, default=0, help="processes making data")
            command.add_argument("--muon-lr", type=float, default=0.015)
            command.add_argument("--adam-lr", type=float, default=3e-3)
            command.add_argument("--resume", action="store_true")
        if name in ("export", "evaluate"):
            command.add_argument("--out", type=Path, required=True, help="exported checkpoint")
        if name == "evaluate":
            command.add_argument("--count", type=int, default=100, help="questions per skill")
            command.add_argument("--bits", type=int, default=0, help="round weights first")
    args = parser.parse_args()
    if args.command == "tokenizer":
        tokenizer(args)
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
