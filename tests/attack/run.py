"""Runs attacks on servers of its own and prints what each costs a bystander and the
server's memory. Ends with 1 if a promise does not hold.

Usage: run.py --binaries FOLDER --stubs FOLDER [--full] [--list] [ATTACK ...]
"""
import argparse
import pathlib
import sys
import time
import traceback

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--binaries", type=pathlib.Path, required=True)
parser.add_argument("--stubs", type=pathlib.Path, required=True)
parser.add_argument("--full", action="store_true", help="the long form: minutes")
parser.add_argument("--list", action="store_true")
parser.add_argument("attacks", nargs="*")
arguments = parser.parse_args()
sys.path.insert(0, str(arguments.stubs.resolve()))

import attacks  # noqa: E402: the stubs are found only now
import ground  # noqa: E402

ZOO = pathlib.Path(__file__).resolve().parents[2] / "model/zoo"


def milliseconds(seconds):
    return f"{seconds * 1000:.3g}" if seconds < 1 else f"{seconds * 1000:.0f}"


def show_costs(before, during, memory):
    for call in ("generate", "health"):
        print(f"    {call:9} ms: median {milliseconds(before[call]['median'])} -> "
              f"{milliseconds(during[call]['median'])}, worst {milliseconds(before[call]['worst'])} -> "
              f"{milliseconds(during[call]['worst'])} of {during[call]['count']}")
    print(f"    memory MiB: before {memory[0] // ground.MIB}, peak {memory[1] // ground.MIB}, "
          f"after {memory[2] // ground.MIB}", flush=True)


def run(name):
    """Whether the promise held."""
    field = ground.Ground(arguments.binaries.resolve(), arguments.stubs.resolve(), ZOO, arguments.full)
    begin = time.monotonic()
    held, note = True, None
    try:
        note = attacks.ATTACKS[name](field)
    except ground.Refuted as refuted:
        held, note = False, refuted
    except Exception:  # a fault of the attack: the others are run
        held, note = False, traceback.format_exc()
    print(f"{name:28} {'held' if held else 'NOT HELD':8} {time.monotonic() - begin:5.1f} s  {note or ''}")
    for costs in field.rows:
        show_costs(*costs)
    return held


def main():
    if arguments.list:
        for name, attack in attacks.ATTACKS.items():
            print(f"{name:28} {attack.__doc__}")
        return 0
    unknown = set(arguments.attacks) - attacks.ATTACKS.keys()
    if unknown:
        print(f"no attack is called {', '.join(sorted(unknown))}; --list names them", file=sys.stderr)
        return 2
    failed = [name for name in arguments.attacks or attacks.ATTACKS if not run(name)]
    print(f"{len(failed)} did not hold: {', '.join(failed)}" if failed else "every promise held")
    return 1 if failed else 0


sys.exit(main())
