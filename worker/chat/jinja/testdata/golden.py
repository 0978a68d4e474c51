"""Writes NAME.CASE.txt for each template and case, with Jinja2 as transformers sets it up.

Run by hand where Jinja2 3.1 is: python3 golden.py. The tests read what it wrote.
"""
import glob, json, os
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

def refuse(message):
    raise ValueError(message)

env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
    x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
env.globals["raise_exception"] = refuse
for template in sorted(glob.glob("*.jinja")):
    for case in sorted(glob.glob("*.json")):
        name = template[:-6] + "." + case[:-5] + ".txt"
        with open(template) as t, open(case) as c:
            variables = json.load(c)
            variables["null_value"] = None
            source = t.read()
        try:
            text = env.from_string(source).render(**variables)
        except Exception as e:
            print(name, e)
            if os.path.exists(name):
                os.remove(name)
            continue
        with open(name, "w") as out:
            out.write(text)
