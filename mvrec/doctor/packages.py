"""Checks of the packages that mvrec needs: installed, compatible and loadable."""

import importlib
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mvrec.doctor.checks import Check, Status
from mvrec.errors import install_hint

# Releases that steal credentials on import, and the first one that does not run code from checkpoints.
MALICIOUS_LIGHTNING = ("2.6.2", "2.6.3")
FIRST_SAFE_LIGHTNING = "2.6.6"
LIGHTNING_FIX = "pip install --force-reinstall --no-cache-dir 'lightning>=2.6.6,<2.7'"
# The module of a package, if its name differs.
MODULES = {"pillow": "PIL", "pyyaml": "yaml"}
FOR_DEVELOPERS = ("test", "dev")

VersionOf = Callable[[str], str | None]


def installed_version(name: str) -> str | None:
    """Return the version of a package, or `None` if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def lightning_checks(version_of: VersionOf = installed_version) -> list[Check]:
    """Check for releases of Lightning that must not be imported; call it before anything imports Lightning."""
    checks = []
    for name in ("lightning", "pytorch-lightning"):
        version = version_of(name)
        if version is None:
            continue
        if version in MALICIOUS_LIGHTNING:
            text = f"{version} is a malicious release that steals passwords and tokens on import"
            fix = f"{LIGHTNING_FIX}; then change every password, token and key that was on this machine"
            checks.append(Check("packages", name, "broken", text, fix))
        elif _is_older(version, FIRST_SAFE_LIGHTNING):
            text = f"{version} runs code from checkpoints when it loads them"
            checks.append(Check("packages", name, "broken", text, LIGHTNING_FIX))
    return checks


def _is_older(version: str, than: str) -> bool:
    try:
        return Version(version) < Version(than)
    except InvalidVersion:
        return True


def package_checks(version_of: VersionOf = installed_version, *, load: bool = True) -> list[Check]:
    """Check Python and every required package: installed, of a suitable version, and loadable.

    Args:
        version_of: Returns the version of a package.
        load: Whether to import them.
    """
    about: Any = metadata.metadata("mvrec")
    python = platform.python_version()
    needed = SpecifierSet(about.get("Requires-Python") or "")
    fits = python in needed
    results = [
        Check(
            "packages",
            "python",
            "ok" if fits else "broken",
            python if fits else f"{python}, mvrec needs {needed}",
            "" if fits else "python3.12 -m venv .venv && .venv/bin/pip install mvrec",
        )
    ]
    direct = list(_requirements("mvrec", ""))
    # PyAV before decord, as when mvrec reads a video: decord's old libvpx would replace PyAV's.
    first = sorted(direct, key=lambda requirement: requirement.name != "av")
    checks = {requirement.name: _package(requirement, version_of, load=load) for requirement in first}
    results += [checks[requirement.name] for requirement in direct]
    return results + list(_conflicts(direct, version_of))


def _package(requirement: Requirement, version_of: VersionOf, *, load: bool) -> Check:
    name, version = requirement.name, version_of(requirement.name)
    fix = f"pip install '{_plain(requirement)}'"
    if version is None:
        return Check("packages", name, "broken", "not installed", fix)
    if not requirement.specifier.contains(version, prereleases=True):
        return Check("packages", name, "broken", f"{version}, mvrec needs {requirement.specifier}", fix)
    if load:
        module = MODULES.get(name, name.replace("-", "_"))
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken package may raise any error
            text = f"{version} does not load: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return Check("packages", name, "broken", text, f"pip install --force-reinstall '{_plain(requirement)}'")
    return Check("packages", name, "ok", version)


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _requirements(name: str, extra: str) -> Iterator[Requirement]:
    """Yield the requirements of a package on this machine, for one of its extras or for itself."""
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        by_itself = marker is None or marker.evaluate({"extra": ""})
        if by_itself if not extra else not by_itself and marker is not None and marker.evaluate({"extra": extra}):
            yield requirement


def _conflicts(direct: list[Requirement], version_of: VersionOf) -> Iterator[Check]:
    """Yield installed packages that do not fit a required one, such as a torch that does not fit torchvision."""
    for owner in direct:
        if version_of(owner.name) is None:
            continue
        try:
            needs = list(_requirements(owner.name, ""))
        except metadata.PackageNotFoundError:
            continue
        for need in needs:
            version = version_of(need.name)
            if version is None or need.specifier.contains(version, prereleases=True):
                continue
            pair = f"{owner.name} and {need.name}"
            text = f"{owner.name} {version_of(owner.name)} needs {need.name}{need.specifier}, here is {version}"
            required = {canonicalize_name(requirement.name) for requirement in direct}
            status: Status = "broken" if canonicalize_name(need.name) in required else "warning"
            yield Check("packages", pair, status, text, f"pip install --upgrade {owner.name} {need.name}")


def extra_checks(version_of: VersionOf = installed_version) -> list[Check]:
    """Check the requirements of mvrec's optional parts."""
    checks = []
    for extra in metadata.metadata("mvrec").get_all("Provides-Extra") or ():
        if extra in FOR_DEVELOPERS:
            continue
        needs = list(_requirements("mvrec", extra))
        checks.append(_extra(extra, {need.name: (need, version_of(need.name)) for need in needs}))
    return checks


def _extra(extra: str, needs: Mapping[str, tuple[Requirement, str | None]]) -> Check:
    fix = install_hint(extra)
    missing = [name for name, (_, version) in needs.items() if version is None]
    if missing:
        return Check("extras", extra, "note", f"not installed: {', '.join(missing)}", fix)
    wrong = [
        f"{name} {version}, mvrec needs {need.specifier}"
        for name, (need, version) in needs.items()
        if version is not None and not need.specifier.contains(version, prereleases=True)
    ]
    if wrong:
        return Check("extras", extra, "warning", "; ".join(wrong), fix)
    return Check("extras", extra, "ok", ", ".join(f"{name} {version}" for name, (_, version) in needs.items()))
