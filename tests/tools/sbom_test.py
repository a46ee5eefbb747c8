#!/usr/bin/python3
"""scripts/sbom names what a Debian system has installed, and nothing else."""
import json
import pathlib
import re
import subprocess
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts/sbom"
STATUS = """\
Package: libstdc++6
Status: install ok installed
Maintainer: Debian GCC Maintainers <debian-gcc@lists.debian.org>
Architecture: amd64
Source: gcc-12
Version: 12.2.0-14+deb12u1
Description: GNU Standard C++ Library v3
 Status: install ok installed

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: libc-ares2
Status: hold ok installed
Maintainer: Ubuntu Developers <ubuntu-devel-discuss@lists.ubuntu.com>
Architecture: amd64
Source: c-ares (1.18.1-3)
Version: 2:1.18.1-3
"""


def sbom(*flags, status=STATUS):
    return subprocess.run([SCRIPT, *flags, "--status", "-"], input=status, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)


class Sbom(unittest.TestCase):
    def test_the_table_has_what_is_installed_with_its_version_and_source(self):
        lines = [line.split() for line in sbom().stdout.splitlines()]
        self.assertEqual(lines[0][0], "engram")
        self.assertRegex(lines[0][1], r"^\d+\.\d+\.\d+$")
        self.assertEqual(lines[1:], [["libc-ares2", "2:1.18.1-3", "c-ares"],
                                     ["libstdc++6", "12.2.0-14+deb12u1", "gcc-12"]])

    def test_as_spdx_each_has_an_id_and_where_scanners_look_it_up(self):
        document = json.loads(sbom("--spdx").stdout)
        self.assertEqual(document["spdxVersion"], "SPDX-2.3")
        ids = [package["SPDXID"] for package in document["packages"]]
        self.assertEqual(len(set(ids)), 3)
        for name in ids:
            self.assertTrue(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", name), name)
        self.assertEqual([package["externalRefs"][0]["referenceLocator"] for package in document["packages"][1:]],
                         ["pkg:deb/ubuntu/libc-ares2@2%3A1.18.1-3?arch=amd64",
                          "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64"])
        self.assertEqual({link["relatedSpdxElement"] for link in document["relationships"]}, set(ids))

    def test_its_name_depends_on_what_is_in_it_alone(self):
        def name(status):
            return json.loads(sbom("--spdx", status=status).stdout)["documentNamespace"]
        self.assertEqual(name(STATUS), name(STATUS))
        self.assertNotEqual(name(STATUS), name(STATUS.replace("deb12u1", "deb12u2")))

    def test_nothing_installed_is_an_error(self):
        result = sbom(status="<html>404</html>")
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn("var/lib/dpkg/status", result.stderr)


if __name__ == "__main__":
    unittest.main()
