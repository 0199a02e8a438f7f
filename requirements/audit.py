"""Known vulnerabilities of what the locks hold: `make audit`.

pip-audit asks PyPI for the advisories of every pinned release. A release it gets no answer for it skips, and calls the
audit a success: an index that serves files but no advisories would look like a clean bill of health. So what was really
audited is counted here, and an audit that is not whole fails, in words.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

LOCKS = Path(__file__).parent


def audit(requirements: str, service: str) -> list[dict[str, object]]:
    """What pip-audit says of each pinned release: {name, version, vulns} or {name, skip_reason}.

    Args:
        requirements: Lines of a requirements file, every one pinned.
        service: Where advisories come from, `pypi` or `osv`.
    """
    arguments = ["--disable-pip", "--no-deps", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *arguments, "--vulnerability-service", service, "-r", "/dev/stdin"],
        input=requirements,
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1) or not done.stdout.strip():
        sys.exit(f"pip-audit could not run: {done.stderr.strip() or done.returncode}")
    found: list[dict[str, object]] = json.loads(done.stdout)["dependencies"]
    return found


def main() -> None:
    """Audit every lock and PyTorch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("also", nargs="*", help="releases beside the locks, as in torch==2.13.0")
    parser.add_argument("--service", default="pypi", choices=["pypi", "osv"])
    given = parser.parse_args()

    pinned = {line.split(";")[0].strip(" \\\n") for lock in LOCKS.glob("*.txt") for line in lock.open() if "==" in line}
    releases = sorted({line for line in pinned if not line.startswith(("#", "-"))} | set(given.also))
    # One release of a package at a time: locks hold several, for several Pythons.
    passes: list[dict[str, str]] = []
    for release in releases:
        name = release.split("==")[0]
        free = next((each for each in passes if name not in each), None)
        if free is None:
            free = {}
            passes.append(free)
        free[name] = release
    found = [result for each in passes for result in audit("\n".join(each.values()), given.service)]
    audited = [result for result in found if "skip_reason" not in result]
    vulnerable = [result for result in audited if result["vulns"]]
    for result in vulnerable:
        for advisory in result["vulns"]:  # type: ignore[attr-defined]
            fixed = ", ".join(advisory["fix_versions"]) or "no release yet"
            print(f"{result['name']} {result['version']}: {advisory['id']}, fixed in {fixed}")
    print(f"{len(releases)} pinned releases, {len(audited)} audited, {len(vulnerable)} with known vulnerabilities")
    if len(audited) < len(releases):
        print(
            f"{len(releases) - len(audited)} were NOT audited: {given.service} gave no advisories for them "
            "(an index mirror may serve files alone); run this where pypi.org or osv.dev can be reached"
        )
    sys.exit(1 if vulnerable else 2 if len(audited) < len(releases) else 0)


if __name__ == "__main__":
    main()
