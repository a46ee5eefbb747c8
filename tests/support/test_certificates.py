"""Real certificates for tests in Python, made by openssl's program."""
import pathlib
import subprocess


def openssl(*words):
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Pair:
    """A certificate and its key: two files."""

    def __init__(self, folder, name):
        self.certificate = pathlib.Path(folder) / f"{name}.crt"
        self.key = pathlib.Path(folder) / f"{name}.key"

    def replace_by(self, other):
        """As a careful administrator does it: each file becomes another at once."""
        for mine, new in ((self.certificate, other.certificate), (self.key, other.key)):
            step = mine.with_suffix(".new")
            step.write_bytes(new.read_bytes())
            step.replace(mine)


class Authority(Pair):
    """One that makes certificates by elliptic curves, which are quick to make."""

    def __init__(self, folder, name):
        super().__init__(folder, name)
        self.folder = folder
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 2,
                "-subj", f"/CN={name}", "-keyout", self.key, "-out", self.certificate)

    def issue(self, name, names="DNS:localhost,IP:127.0.0.1", days=2):
        """A pair for `names`, as subjectAltName has them; with -1 for `days` it has expired."""
        pair = Pair(self.folder, name)
        request = pair.certificate.with_suffix(".csr")
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
                "-addext", f"subjectAltName={names}", "-keyout", pair.key, "-out", request)
        openssl("x509", "-req", "-in", request, "-copy_extensions", "copy", "-CA", self.certificate, "-CAkey", self.key,
                "-days", days, "-out", pair.certificate)
        return pair
