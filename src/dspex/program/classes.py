"""A module that was given as its class, and not by its name."""

from __future__ import annotations

import sys
from typing import Any

from dspex.errors import ModuleNotFound

_PREFIX = "dspy."


def named(module: object) -> str:
    """The name of a module: text as it is, and a class by the place from which a worker can import it.

    Raises:
        ModuleNotFound: It is neither, or a class that only this process has.
    """
    if isinstance(module, str):
        return module
    if not isinstance(module, type):
        raise _of_no_class(module)
    if module.__module__.startswith(_PREFIX):
        return _PREFIX + module.__name__  # of DSPy's own; the catalogue knows which of them there are
    name = _name_in_its_module(module)
    return f"{module.__module__}:{name}"


def _of_no_class(given: Any) -> ModuleNotFound:
    kind = type(given)
    if callable(getattr(kind, "forward", None)) or callable(getattr(kind, "aforward", None)):
        reason = (
            f"module is an instance of {kind.__name__}, which cannot be sent to a worker; give the class, "
            f"module={kind.__name__}, what its constructor takes in arguments={{...}}, and what it has "
            "learned in state=module.dump_state()"
        )
    else:
        reason = (
            "module is a name such as 'dspy.Predict' or 'package.module:Class', or a class, not "
            f"{kind.__name__}"
        )
    return ModuleNotFound(reason, details={"module": kind.__qualname__})


def _name_in_its_module(found: type) -> str:
    """The name by which its module has a class; not always the one that the class gives itself."""
    home, name = found.__module__, found.__qualname__
    if home == "__main__":
        raise _only_here(
            found,
            f"{name} is defined in the script or notebook that runs, which a worker does not import; move it "
            "into a module, and allow that with Settings(allow_modules=[...])",
        )
    there = vars(sys.modules[home]) if home in sys.modules else {}
    if there.get(name) is found:
        return name
    other = next((key for key, value in there.items() if value is found and not key.startswith("_")), None)
    if other is not None:
        return other
    if "<locals>" in name:
        raise _only_here(
            found,
            f"{found.__name__} is defined inside a function, so that no import finds it; move it to the top "
            f"of its module {home}, and give what it takes from the function in arguments={{...}}",
        )
    if name in there:
        raise _only_here(
            found,
            f"{home}.{name} is another class by now than the one given: the module was loaded again, or the "
            "name is bound anew; import the class again",
        )
    raise _only_here(
        found,
        f"the module {home} has no {name} at its top, so that no import finds it; bind the class to a name "
        "there",
    )


def _only_here(found: type, reason: str) -> ModuleNotFound:
    return ModuleNotFound(reason, details={"module": f"{found.__module__}:{found.__qualname__}"})
