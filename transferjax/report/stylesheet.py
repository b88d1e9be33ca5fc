"""The look of `report.html`: serif text, plain tables, light and dark."""

CSS = """
:root {
  color-scheme: light dark;
  --ink: #1c1e21; --soft: #5b6470; --line: #d9dde2; --page: #fdfdfb; --band: #f3f4f1; --accent: #0072b2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e7e4; --soft: #a2a9b1; --line: #3a4046; --page: #17191c; --band: #202428; --accent: #6db7e8;
  }
  figure img { background: #fff; }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 17px/1.6 "Source Serif 4", Charter, "Bitstream Charter", Georgia, "DejaVu Serif", serif;
}
main { max-width: 60rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1, h2, table, figcaption, summary {
  font-family: "Inter", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif;
}
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 1.5rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 0.5rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
p { max-width: 42rem; }
.scroll { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-size: 0.78rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; font-size: 0.88rem; padding-bottom: 0.5rem; }
th, td { padding: 0.3rem 0.7rem; text-align: right; white-space: nowrap; }
thead tr:first-child th { border-top: 1.5px solid var(--ink); text-align: center; }
thead tr:last-child th { border-bottom: 1px solid var(--line); font-weight: 500; color: var(--soft); }
tbody tr:last-child > * { border-bottom: 1.5px solid var(--ink); }
tbody th { text-align: left; font-weight: 600; position: sticky; left: 0; background: var(--page); }
tbody tr:nth-child(even) > * { background: var(--band); }
td b { color: var(--accent); }
.error { color: var(--soft); font-size: 0.9em; }
figure { margin: 2rem 0; }
figure img { max-width: 100%; height: auto; display: block; border-radius: 4px; padding: 0.4rem; }
figcaption { font-size: 0.82rem; color: var(--soft); margin-top: 0.5rem; max-width: 42rem; }
details { margin-top: 1.2rem; }
summary { cursor: pointer; font-size: 0.9rem; font-weight: 600; }
pre {
  overflow-x: auto; background: var(--band); padding: 1rem; border-radius: 6px;
  font-size: 0.75rem; line-height: 1.45;
}
"""
