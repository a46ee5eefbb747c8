#!/usr/bin/python3
"""What is installed is built so that a fault in it is hard to use.

  hardened_test.py COMPILER PROGRAM...

Looks at the programs by readelf, and at one that is built without each of these
protections, so that what is looked for is seen to be missed.
"""
import platform
import re
import subprocess
import sys
import tempfile
import unittest

COMPILER = sys.argv[1]
PROGRAMS = sys.argv[2:]
IS_X86 = platform.machine() == "x86_64"


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def readelf(flag, program):
    return output("readelf", "--wide", flag, program)


def missing(program):
    """What a program lacks, a set of words."""
    segments, dynamic = readelf("--segments", program), readelf("--dynamic", program)
    symbols, notes = readelf("--dyn-syms", program), readelf("--notes", program)
    stack = re.search(r"GNU_STACK.* (R\w*) ", segments)
    has = {
        "position-independent": re.search(r"FLAGS_1.*\bPIE\b", dynamic),
        "addresses read-only": "GNU_RELRO" in segments and
                               re.search(r"\bBIND_NOW\b|FLAGS_1.*\bNOW\b", dynamic),
        "stack without code": stack and "E" not in stack[1],
        "canaries": "__stack_chk_fail" in symbols,
        "checked copies": re.search(r"\b__\w+_chk\b(?<!__stack_chk)", symbols),
    }
    if IS_X86:
        has["a shadow stack"] = re.search(r"x86 feature:.*\bSHSTK\b", notes)
        # The program cannot say so in its notes, for what Debian begins every
        # program with has no such marks; ours has.
        has["jumps to marked places"] = "endbr64" in output("objdump", "--disassemble=main", program)
    return {what for what, is_there in has.items() if not is_there}


class Hardened(unittest.TestCase):
    def test_programs_lack_nothing(self):
        lacking = {program: missing(program) for program in PROGRAMS}
        for program, what in lacking.items():
            with self.subTest(program=program):
                # Not every program copies by what has a checked form.
                self.assertLessEqual(what, {"checked copies"})
        self.assertEqual(set.intersection(*lacking.values()), set())

    def test_what_is_missing_is_told(self):
        with tempfile.TemporaryDirectory() as folder:
            program = f"{folder}/unprotected"
            flags = ["-no-pie", "-fno-stack-protector", "-U_FORTIFY_SOURCE",
                     "-Wl,-z,norelro,-z,execstack,-z,lazy"]
            everything = {"position-independent", "addresses read-only", "stack without code",
                          "canaries", "checked copies"}
            if IS_X86:
                flags.append("-fcf-protection=none")
                everything |= {"a shadow stack", "jumps to marked places"}
            subprocess.run([COMPILER, "-x", "c++", "-", "-o", program, *flags],
                           input="int main() {}\n", text=True, check=True)
            self.assertEqual(missing(program), everything)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
