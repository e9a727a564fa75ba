"""The style of a report: system fonts, light and dark, as narrow as a phone and as wide as a desk."""

STYLE = """
:root {
  color-scheme: light dark;
  --back: #ffffff; --card: #f6f7f9; --text: #1c2024; --faint: #5b6570; --rule: #dde1e6;
  --accent: #1f5fbf; --warn: #8a5300; --warn-back: #fff4e0; --heat: 31, 95, 191; --bad: 190, 60, 30;
  --line0: #1f5fbf; --line1: #c2571a; --line2: #2f7d4f; --line3: #8a3fa8; --line4: #7a6a10; --line5: #b02a5b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #14171a; --card: #1d2126; --text: #e6e9ec; --faint: #a0a9b3; --rule: #343a41;
    --accent: #7fb0ff; --warn: #ffd08a; --warn-back: #3a2c12; --heat: 110, 165, 255; --bad: 255, 140, 105;
    --line0: #7fb0ff; --line1: #ff9c66; --line2: #74d19a; --line3: #d79bf0; --line4: #e0cc5c; --line5: #ff8ab5;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 74rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Helvetica Neue", Arial, sans-serif;
}
h1 { margin: 0; font-size: 1.7rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 2.75rem 0 .75rem; padding-bottom: .3rem; font-size: 1.25rem; border-bottom: 1px solid var(--rule); }
h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; }
p { margin: .5rem 0; max-width: 48rem; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin-top: .75rem; font-size: .9rem; }
.faint { color: var(--faint); font-size: .9rem; }
.mono, pre, code { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { overflow-wrap: anywhere; }
pre { padding: .75rem 1rem; background: var(--card); border-radius: 6px; overflow-x: auto; }
.notes { margin: 1rem 0; padding: .6rem 1rem; background: var(--warn-back); color: var(--warn); border-radius: 6px; }
.notes p { max-width: none; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.card { padding: .8rem 1rem; background: var(--card); border-radius: 8px; }
.card b { display: block; font-size: 1.75rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card small { display: block; color: var(--faint); font-size: .82rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; margin: .75rem 0; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
@media (max-width: 36rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; } }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .75rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
th { color: var(--faint); font-weight: 600; white-space: nowrap; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.classes { width: 100%; }
.classes td:first-child, .pairs td { overflow-wrap: anywhere; min-width: 7rem; }
.barcell { width: 45%; min-width: 8rem; vertical-align: middle; }
.bar { display: block; height: .7rem; min-width: 2px; border-radius: 2px; background: rgb(var(--heat)); }
.bar.loss { background: rgb(var(--bad)); }
.changebar { display: block; background: linear-gradient(var(--rule), var(--rule)) center/1px no-repeat; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: .5rem 2rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--accent); overflow-wrap: anywhere; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .9rem; font-weight: 600; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--faint); font-size: 11px; font-family: inherit; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .line { fill: none; stroke: var(--own); stroke-width: 1.8; stroke-linejoin: round; }
svg circle.line { stroke: none; fill: var(--own); }
svg .band { fill: var(--own); fill-opacity: .18; }
svg .point { fill-opacity: .55; }
svg .equal { stroke: var(--faint); stroke-width: 1; stroke-dasharray: 5 4; }
.line0 { --own: var(--line0); }
.line1 { --own: var(--line1); }
.line2 { --own: var(--line2); }
.line3 { --own: var(--line3); }
.line4 { --own: var(--line4); }
.line5 { --own: var(--line5); }
svg .level { stroke: var(--faint); stroke-width: 1.4; stroke-dasharray: 5 4; }
.key.level::before { background: repeating-linear-gradient(90deg, var(--faint) 0 4px, transparent 4px 7px); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .2rem 0 0; padding: 0; list-style: none; }
.legend { font-size: .82rem; }
.swatch { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem; border-radius: 2px; }
.timeline { margin: 1.25rem 0; }
.timeline svg { min-width: 44rem; }
svg text.inside { fill: #10131a; }
.key::before {
  content: ""; display: inline-block; width: .9rem; height: .25rem; margin-right: .4rem; vertical-align: middle;
  background: var(--own);
}
.confusion { width: auto; border-collapse: separate; border-spacing: 1px; }
.confusion th, .confusion td { border: 0; padding: .25rem .4rem; text-align: center; }
.confusion td { min-width: 2.1rem; font-variant-numeric: tabular-nums; }
.confusion tbody th { text-align: right; max-width: 16rem; overflow: hidden; text-overflow: ellipsis; }
.confusion thead th { vertical-align: bottom; }
.confusion thead th span {
  writing-mode: vertical-rl; transform: rotate(180deg); max-height: 11rem; overflow: hidden; text-overflow: ellipsis;
  display: inline-block;
}
.confusion .strong { color: var(--back); font-weight: 600; }
@media (max-width: 36rem) { .confusion tbody th { max-width: 8rem; white-space: nowrap; } }
.matrix { max-width: 46rem; }
.matrix image { image-rendering: pixelated; }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); gap: 1rem; }
.mistake { padding: .75rem; background: var(--card); border-radius: 8px; min-width: 0; overflow-wrap: anywhere; }
.mistake .film { display: flex; gap: 3px; margin-bottom: .5rem; }
.mistake .film img { flex: 1 1 0; min-width: 0; max-width: 9rem; border-radius: 3px; }
.still { display: flex; gap: .75rem; }
.still .film { flex: 0 0 8rem; margin: 0; align-self: start; }
.still > div:last-child { min-width: 0; }
.mistake p { margin: .15rem 0; }
.mistake .missing { padding: 1rem; border: 1px dashed var(--rule); border-radius: 4px; color: var(--faint); }
.mistake .missing { margin-bottom: .5rem; font-size: .85rem; }
.path { font-size: .8rem; color: var(--faint); }
@media print { nav { display: none; } .mistake, .card { break-inside: avoid; } }
"""
