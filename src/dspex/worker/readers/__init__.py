"""Temporary."""
import re
class _R:
    def __init__(self, fields): self.fields=set(fields); self.buf=""
    def feed(self, text):
        self.buf+=text; return []
    def end(self):
        out=[]
        for m in re.finditer(r"\[\[ ## (\w+) ## \]\]\n?(.*?)(?=\[\[ ## |\Z)", self.buf, re.S):
            if m[1] in self.fields: out.append((m[1], m[2].strip()))
        return out
ChatReader=JSONReader=XMLReader=_R
