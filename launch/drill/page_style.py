"""The page's look, light and dark, and the few lines of script that follow the pointer."""

STYLE = """
:root { color-scheme: light dark;
  --page: #f5f4ef; --card: #fffefb; --ink: #1f2d33; --faint: #65757b; --line: #e2e3dd;
  --accent: #1f6f82; --pale: #b9dbe3; --good: #2a7a55; --good-soft: #e3f1e8; --bad: #b23a2a;
  --bad-soft: #f9e5e0; --cut: #c9442f; --reset: #8d56b8; --slow: #c98a00; --lossy: #2f77c9;
  --process: #47565c; --disk: #7b8b2a; --code: #f3f2ec; }
@media (prefers-color-scheme: dark) { :root {
  --page: #0e1518; --card: #162024; --ink: #e4ecee; --faint: #93a3a9; --line: #2a373c;
  --accent: #62bfd3; --pale: #27515d; --good: #6ecb9a; --good-soft: #15302a; --bad: #f08a78;
  --bad-soft: #3a1e1b; --cut: #ee6f5b; --reset: #b98ae0; --slow: #e3ad3b; --lossy: #6ea8ee;
  --process: #aebcc2; --disk: #a9ba55; --code: #10191c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 24px 56px; }
header .brand { display: flex; align-items: center; gap: 9px; color: var(--accent); margin: 0;
  font-weight: 650; letter-spacing: .01em; }
header .brand svg { width: 22px; height: 22px; }
h1 { font: 600 15px/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; margin: 2px 0 18px;
  color: var(--faint); overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 4px; letter-spacing: -.005em; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 20px 22px; margin-top: 18px; }
.verdict { border: 0; padding: 24px 26px; display: flex; gap: 20px; align-items: flex-start; }
.verdict.held { background: var(--good-soft); } .verdict.broken { background: var(--bad-soft); }
.verdict.idle { background: var(--card); border: 1px solid var(--line); }
.idle svg { color: var(--faint); }
.verdict svg { flex: none; width: 52px; height: 52px; }
.held svg { color: var(--good); } .broken svg { color: var(--bad); }
.verdict strong { display: block; font-size: 40px; line-height: 1.1; letter-spacing: -.02em; }
.held strong { color: var(--good); } .broken strong { color: var(--bad); }
.verdict p { margin: 6px 0 0; font-size: 17px; line-height: 1.45; }
.verdict code { font-size: 13px; color: var(--faint); overflow-wrap: anywhere; }
.cards { display: grid; gap: 12px; margin-top: 18px;
  grid-template-columns: repeat(4, minmax(0, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 13px 16px 12px; }
.card b { display: block; font-size: 24px; font-weight: 650; line-height: 1.25;
  letter-spacing: -.015em; font-variant-numeric: tabular-nums; white-space: nowrap; }
.card.bad b { color: var(--bad); } .card.good b { color: var(--good); }
.card span { display: block; font-size: 13px; color: var(--faint); line-height: 1.35; }
.card .what { color: var(--ink); font-weight: 550; }
.note { color: var(--faint); font-size: 13.5px; margin: 8px 0 0; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 10px; font-size: 13px;
  color: var(--faint); }
.legend span { display: inline-flex; align-items: center; gap: 7px; }
.legend i { font-style: normal; }
.net { overflow-x: auto; text-align: center; }
.net svg { max-width: 100%; height: auto; min-width: min(560px, 100%); }
.net .ground { fill: none; }

.plot { position: relative; min-width: 0; }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; display: block;
  overflow: visible; }
.plot path, .ground path { vector-effect: non-scaling-stroke; }
.plot span { position: absolute; white-space: nowrap; font-size: 12px; line-height: 16px;
  font-variant-numeric: tabular-nums; pointer-events: none; }
.plot .x { transform: translateX(-50%); color: var(--faint); }
.plot .y { color: var(--faint); right: 100%; transform: translateY(-50%); padding-right: 7px; }
.plot .y, .word { text-shadow: 0 0 3px var(--card), 0 0 3px var(--card), 0 0 3px var(--card); }
.curves { padding-left: 34px; }
.pair { display: grid; grid-template-columns: minmax(0, 1.55fr) minmax(0, 1fr); gap: 18px; }
.pair .net { display: grid; place-items: center; height: calc(100% - 90px); }
.short { max-width: 640px; }
.plot .none { color: var(--faint); }
.grid { fill: none; stroke: var(--line); stroke-width: 1; }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round; }
.area { stroke: none; opacity: .16; }
.line.quiet { stroke: var(--pale); stroke-width: 8; }
.line.faulty { stroke: var(--ink); stroke-width: 1.5; }
.line.steps, .bars.steps { stroke: var(--accent); } .area.steps { fill: var(--accent); }
.bars { fill: none; stroke-width: 1.2; }
.line.sent { stroke: var(--lossy); stroke-width: 1.2; } .area.sent { fill: var(--lossy); }
.reference { fill: none; stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 4 4;
  opacity: .65; }
.restart { fill: none; stroke: var(--process); stroke-width: 1.6; stroke-dasharray: 2 3; }

.timeline { position: relative; --gutter: 156px; margin-top: 6px; }
.ground { position: absolute; left: var(--gutter); top: 22px; width: calc(100% - var(--gutter));
  height: calc(100% - 44px); pointer-events: none; }
.row { display: grid; grid-template-columns: var(--gutter) minmax(0, 1fr); position: relative;
  padding: 3px 0; }
.label { font-size: 13px; font-weight: 550; padding-right: 58px; align-self: center;
  line-height: 1.25; }
.label small { display: block; font-weight: 400; color: var(--faint); font-size: 12px; }
.axis .label { font-weight: 400; color: var(--faint); }
.band { opacity: .09; } .moment { fill: none; opacity: .4; stroke-width: 1.2; }
.span { opacity: .3; } .span.many { opacity: .8; } .edge { fill: none; stroke-width: 3; }
.lanes .word { overflow: hidden; text-overflow: ellipsis; padding: 0 6px;
  line-height: 17px; }
.band.cut, .span.cut { fill: var(--cut); } .band.reset, .span.reset { fill: var(--reset); }
.band.slow, .span.slow { fill: var(--slow); } .band.lossy, .span.lossy { fill: var(--lossy); }
.band.process, .span.process { fill: var(--process); }
.band.disk, .span.disk { fill: var(--disk); }
.moment.cut, .edge.cut { stroke: var(--cut); } .moment.reset, .edge.reset { stroke: var(--reset); }
.moment.slow, .edge.slow { stroke: var(--slow); }
.moment.lossy, .edge.lossy { stroke: var(--lossy); }
.moment.process, .edge.process { stroke: var(--process); }
.moment.disk, .edge.disk { stroke: var(--disk); }
.base { fill: none; stroke: var(--line); stroke-width: 2; }
.away { fill: var(--bad); opacity: .35; }
.lost { fill: none; stroke: var(--bad); stroke-width: 2.5; }
.restored { fill: none; stroke: var(--good); stroke-width: 8; stroke-linecap: round; }
.plot .end { transform: translate(-50%, -50%); color: var(--bad); font-weight: 700;
  font-size: 14px; pointer-events: auto; cursor: default; }
.legend .end { color: var(--bad); font-weight: 700; }
.key { display: inline-block; width: 20px; height: 0; border-top: 2px solid; }
.key.quiet { border-top: 8px solid var(--pale); border-radius: 4px; }
.key.faulty { color: var(--ink); }
.key.lost { width: 0; height: 14px; border: 0; border-left: 3px solid var(--bad); }
.key.restored { width: 9px; height: 9px; border: 0; border-radius: 50%; background: var(--good); }
.key.away { border-top: 6px solid var(--bad); opacity: .35; }
.key.restart { width: 0; height: 14px; border: 0; border-left: 2px dotted var(--process); }
.cursor { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--accent);
  pointer-events: none; }
.cursor output { position: absolute; top: 0; left: 6px; background: var(--accent);
  color: var(--card); font-size: 12px; line-height: 18px; padding: 0 6px; border-radius: 9px;
  white-space: nowrap; font-variant-numeric: tabular-nums; }

.scroll { overflow-x: auto; margin: 10px -6px 0; padding: 0 6px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; font-weight: 550; color: var(--faint); font-size: 12.5px; line-height: 1.25;
  vertical-align: bottom; padding: 4px 14px 6px 0; border-bottom: 1px solid var(--line); }
td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child td { border-bottom: 0; }
.figure { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.faint { color: var(--faint); }
td.what { min-width: 210px; }
.chip { display: inline-block; width: 9px; height: 9px; border-radius: 3px; margin-right: 8px; }
.chip.cut { background: var(--cut); } .chip.reset { background: var(--reset); }
.chip.slow { background: var(--slow); } .chip.lossy { background: var(--lossy); }
.chip.process { background: var(--process); } .chip.disk { background: var(--disk); }
pre { background: var(--code); border: 1px solid var(--line); border-radius: 9px; margin: 10px 0 0;
  padding: 12px 14px; overflow: auto; max-height: 340px;
  font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
dl { margin: 8px 0 0; font-size: 13.5px; display: grid; gap: 6px 18px;
  grid-template-columns: max-content minmax(0, 1fr); }
dt { font-weight: 550; } dd { margin: 0; color: var(--faint); }
.sub { color: var(--faint); margin: 0 0 12px; font-size: 14px; max-width: 78ch; }

@media (max-width: 900px) { .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .pair { grid-template-columns: minmax(0, 1fr); gap: 0; } }
@media (max-width: 640px) {
  main { padding: 18px 12px 40px; } section { padding: 16px 14px; border-radius: 12px; }
  .verdict { padding: 18px 16px; gap: 14px; } .verdict svg { width: 38px; height: 38px; }
  .verdict strong { font-size: 30px; } .verdict p { font-size: 15.5px; }
  .cards { gap: 8px; } .card { padding: 11px 12px; border-radius: 12px; }
  .card b { font-size: 18px; }
  .timeline .y { right: auto; left: 0; transform: none; padding: 0; }
  .timeline { --gutter: 0px; } .label { padding: 0; }
  .row { grid-template-columns: minmax(0, 1fr); }
  .label small { display: inline; margin-left: 6px; } .axis .label { display: none; }
  .plot .x:nth-of-type(even) { visibility: hidden; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 2px; } dd { margin-bottom: 8px; }
}
@media print { body { background: #fff; } section, .card { break-inside: avoid; } }
"""

SCRIPT = """
for (const line of document.querySelectorAll(".timeline")) {
  const cursor = line.querySelector(".cursor"), time = cursor.querySelector("output");
  line.addEventListener("pointermove", (event) => {
    const plot = line.querySelector(".plot").getBoundingClientRect();
    const part = (event.clientX - plot.left) / plot.width;
    cursor.hidden = part < 0 || part > 1;
    cursor.style.left = `${event.clientX - line.getBoundingClientRect().left}px`;
    time.textContent = `${(part * Number(line.dataset.seconds)).toFixed(2)} s`;
    time.style.left = part > 0.9 ? "auto" : "6px";
    time.style.right = part > 0.9 ? "6px" : "auto";
  });
  line.addEventListener("pointerleave", () => { cursor.hidden = true; });
}
"""
