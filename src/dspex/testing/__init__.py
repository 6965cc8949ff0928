"""For tests of programs that use dspex: a language model that is scripted, and a runtime without processes.

>>> from dspex.testing import InProcessRuntime, ScriptedLM
>>> with ScriptedLM(["Paris"]) as lm, InProcessRuntime(lm) as runtime:
...     runtime.adapter().generate("The capital of France?", signature="question -> answer").answer
'Paris'
"""

from dspex.testing.inprocess import InProcessRuntime
from dspex.testing.replies import Drop, Failure, Reply, Request, Scripted, raw
from dspex.testing.scripted import ScriptedLM

__all__ = ["Drop", "Failure", "InProcessRuntime", "Reply", "Request", "Scripted", "ScriptedLM", "raw"]
