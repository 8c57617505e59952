"""The page's look: light and dark by the reader's choice, wide and narrow."""

from __future__ import annotations

COLOURS = ("0f6fc6", "c4570a", "1a8a5a", "8a4fc0", "b5304f", "6f6a00", "00808a", "7a5230")
DARK_COLOURS = ("6db3f2", "f0a05a", "5fd19a", "c39cf0", "f0809a", "d6cf5a", "5fd0d8", "d0a884")
"""A colour a method, over again where there are more; told apart without red and green alone."""

CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c2126; --faint: #5b6670; --line: #d9dee3; --wash: #f4f6f8; --good: #e6f3ec;
  --true: #1c2126; LIGHT }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --ink: #e6eaee; --faint: #9aa6b1; --line: #333c45; --wash: #1d2329;
  --good: #1c3a2c; --true: #e6eaee; DARK } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { max-width: 46rem; margin: .4rem 0; } .faint { color: var(--faint); font-size: .87rem; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; vertical-align: top; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
thead th { color: var(--faint); font-weight: 600; border-bottom: 2px solid var(--line); }
td small { display: block; color: var(--faint); font-size: .75rem; }
td.best { background: var(--good); font-weight: 600; }
tr.standing td:first-child { color: var(--faint); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .45em; vertical-align: -.05em; }
details.clip { border: 1px solid var(--line); border-radius: 8px; margin: .7rem 0; }
details.clip > summary { cursor: pointer; padding: .6rem .9rem; font-weight: 600; overflow-wrap: anywhere; }
details.clip > div { padding: 0 .9rem .9rem; }
.plots { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 1fr); gap: 1rem; }
.plots > * { min-width: 0; }
.plot { width: 100%; height: auto; display: block; }
.maps { display: flex; flex-wrap: wrap; gap: .8rem; margin: .4rem 0; }
figure { margin: 0; } figcaption { color: var(--faint); font-size: .8rem; }
.maps img { width: 148px; height: 148px; border-radius: 4px; display: block; }
.strip img { height: auto; max-width: 100%; display: block; border-radius: 4px; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1rem; font-size: .85rem; margin: .3rem 0; }
.problems { border-left: 4px solid #c4570a; background: var(--wash); padding: .5rem .9rem; border-radius: 0 6px 6px 0;
  overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: minmax(9rem, max-content) 1fr; gap: .25rem 1rem; font-size: .87rem; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .85em ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
svg text { font: 12px system-ui, sans-serif; fill: var(--faint); } svg .axis { stroke: var(--line); stroke-width: 1; fill: none; }
svg .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; } svg .truth { stroke: var(--true); stroke-width: 5; opacity: .22; }
@media (max-width: 700px) {
  body { padding: 1rem .8rem 3rem; font-size: 16px; } .plots { grid-template-columns: minmax(0, 1fr); }
  .strip img { max-width: none; height: 160px; }
  .plot { min-width: 34rem; } .plot.small { min-width: 20rem; } .maps img { width: 128px; height: 128px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } th, td { padding: .35rem .5rem; }
}
@media print { details.clip { break-inside: avoid; } }
"""


def css() -> str:
    """The style sheet with a colour for each method: --m0 to --m7."""
    light, dark = (" ".join(f"--m{i}: #{c};" for i, c in enumerate(colours)) for colours in (COLOURS, DARK_COLOURS))
    return CSS.replace("LIGHT", light).replace("DARK", dark)


def colour(number: int) -> str:
    """Of the `number`-th method."""
    return f"var(--m{number % len(COLOURS)})"
