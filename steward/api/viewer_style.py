"""The viewer's style sheet: its only resource, from its own address, with no font and no image. Data alone."""

from __future__ import annotations

from typing import Final

CSS: Final = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#15181e;--soft:#5a6372;--rule:#dfe3ea;--accent:#2f5bd7;
--accent-ink:#fff;--good:#0b6b3a;--good-bg:#ddf4e6;--bad:#a3231f;--bad-bg:#fde4e2;--code:#f1f3f7;--mine:#eef3ff;
--unseen:#8a4b00;--unseen-bg:#ffedd0;--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
@media (prefers-color-scheme:dark){:root{--bg:#0f1216;--card:#171b21;--ink:#e7eaf0;--soft:#9aa4b5;--rule:#2a303a;
--accent:#86a8ff;--accent-ink:#0d1424;--good:#7fe0a9;--good-bg:#12321f;--bad:#ff9c95;--bad-bg:#3d1715;--code:#1d222a;
--mine:#1a2236;--unseen:#ffcf8a;--unseen-bg:#3b2a10}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif;min-height:100vh;display:flex;flex-direction:column}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:4px}
.top{display:flex;align-items:center;justify-content:space-between;gap:8px 16px;flex-wrap:wrap;padding:12px 24px;
background:var(--card);border-bottom:1px solid var(--rule)}
.brand{display:flex;align-items:center;gap:10px;color:var(--ink);font-weight:650;letter-spacing:-.01em}
.brand:hover{text-decoration:none}
.mark{width:20px;height:20px;border-radius:6px;background:var(--accent);box-shadow:inset 0 0 0 5px var(--accent),
inset 0 0 0 8px var(--card)}
.sub{color:var(--soft);font-weight:450;padding-left:10px;border-left:1px solid var(--rule)}
.who{display:flex;align-items:center;gap:12px;margin:0;min-width:0}
.name{color:var(--soft);font-size:14px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;max-width:40ch}
main{width:100%;max-width:1120px;margin:0 auto;padding:28px 24px 48px;flex:1}
footer{width:100%;max-width:1120px;margin:0 auto;padding:0 24px 32px;color:var(--soft);font-size:13px}
h1{font-size:26px;line-height:1.25;letter-spacing:-.02em;margin:0 0 4px}
h1.id{font-family:var(--mono);font-size:20px;letter-spacing:0;overflow-wrap:anywhere}
h2{font-size:17px;letter-spacing:-.01em;margin:32px 0 12px}
h3{font-size:12px;font-weight:650;text-transform:uppercase;letter-spacing:.06em;color:var(--soft);margin:0 0 6px}
p{margin:0 0 12px}.muted{color:var(--soft);font-size:14px;margin:0}
.line{display:flex;gap:10px;align-items:center;flex-wrap:wrap;margin:8px 0 0}
code{font-family:var(--mono);font-size:.92em;background:var(--code);padding:1px 5px;border-radius:5px;
overflow-wrap:anywhere}
.bar{display:flex;justify-content:space-between;align-items:flex-end;gap:16px 32px;flex-wrap:wrap;margin-bottom:20px}
.bar>div{min-width:0;flex:1 1 320px}
button,.button{display:inline-block;font:inherit;font-weight:600;color:var(--accent-ink);background:var(--accent);
border:1px solid var(--accent);border-radius:8px;padding:8px 16px;cursor:pointer}
.button:hover{text-decoration:none;filter:brightness(1.06)}
.quiet{background:transparent;color:var(--ink);border-color:var(--rule);font-weight:550}
.who .quiet{padding:4px 12px;font-size:14px}
input{font:inherit;color:var(--ink);background:var(--bg);border:1px solid var(--rule);border-radius:8px;
padding:8px 12px;width:100%;min-width:0}
input::placeholder{color:var(--soft);opacity:.8}
label{display:block;font-size:13px;font-weight:600;margin:0 0 4px}
.find{margin:0;flex:0 1 420px}.pair{display:flex;gap:8px}
.card{max-width:460px;margin:8vh auto 0;background:var(--card);border:1px solid var(--rule);border-radius:14px;
padding:28px;box-shadow:0 1px 2px #0000000d,0 12px 32px #0000000f}
.card h1{margin-bottom:10px}.card form{margin:18px 0 0}.card button{width:100%;margin-top:12px}
.card .button{margin-top:8px}
.hint{color:var(--soft);font-size:13px;margin:20px 0 0}
.wrong,.note{border-radius:8px;padding:10px 14px;font-size:14px}
.wrong{background:var(--bad-bg);color:var(--bad)}.note{background:var(--code);color:var(--soft);margin:12px 0}
.empty{padding:48px 16px;text-align:center;color:var(--soft);border:1px dashed var(--rule);border-radius:12px}
.chips{display:flex;gap:8px;flex-wrap:wrap;margin:0 0 16px}
.chip{border:1px solid var(--rule);border-radius:999px;padding:4px 14px;font-size:13px;background:var(--card);
overflow-wrap:anywhere}
.chip.here{border-color:var(--accent);font-weight:600}
.calls{width:100%;border-collapse:separate;border-spacing:0;background:var(--card);border:1px solid var(--rule);
border-radius:12px;overflow:hidden;font-size:14px}
.calls th{text-align:left;font-size:12px;font-weight:600;color:var(--soft);padding:10px 14px;
border-bottom:1px solid var(--rule);white-space:nowrap}
.calls td{padding:9px 14px;border-bottom:1px solid var(--rule);vertical-align:middle}
.calls tr:last-child td{border-bottom:0}.calls tbody tr:hover{background:var(--mine)}
.calls .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.when{white-space:nowrap;font-variant-numeric:tabular-nums}
.model{display:block;font-weight:550;overflow-wrap:anywhere}.calls .muted{font-size:12px}
.badge,.state{display:inline-block;font-size:12px;font-weight:650;padding:1px 9px;border-radius:999px;
white-space:nowrap}
.good{background:var(--good-bg);color:var(--good)}.bad{background:var(--bad-bg);color:var(--bad)}
.state{background:var(--code);color:var(--soft);font-weight:550}
.state.stored{background:var(--good-bg);color:var(--good)}
.state.lost,.state.failed,.state.shed{background:var(--bad-bg);color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:1px;margin:0;background:var(--rule);
border:1px solid var(--rule);border-radius:12px;overflow:hidden}
.tiles div{background:var(--card);padding:12px 16px}
dt{font-size:12px;color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.tiles dd{font-size:17px;font-weight:600;letter-spacing:-.01em;font-variant-numeric:tabular-nums}
.tags{display:flex;gap:6px;flex-wrap:wrap;margin:12px 0 0}
.tag{font-size:13px;border:1px solid var(--rule);background:var(--card);border-radius:7px;padding:2px 9px;
overflow-wrap:anywhere}
.tag b{font-weight:600;color:var(--soft);margin-right:6px}
.more{margin:12px 0;border:1px solid var(--rule);border-radius:10px;background:var(--card)}
summary{cursor:pointer;padding:9px 14px;font-size:14px;font-weight:550}
.more[open]>summary{border-bottom:1px solid var(--rule)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(260px,1fr));gap:12px 24px;margin:0;padding:14px}
.facts dd{font-family:var(--mono);font-size:13px}
.turn{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:14px 16px;margin:0 0 10px}
.turn.answered{background:var(--mine);border-left:3px solid var(--accent)}
.kind{font-size:13px;color:var(--soft);margin:8px 0 4px}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext;tab-size:4}
.said{font:inherit}.said+.said{margin-top:10px}
.thing,.raw{font:13px/1.5 var(--mono)}.thing{background:var(--code);border-radius:8px;padding:10px 12px}
.raw{padding:14px;max-height:70vh;overflow:auto}
.unseen{font:600 11px/1 var(--mono);color:var(--unseen);background:var(--unseen-bg);border-radius:4px;padding:1px 4px;
unicode-bidi:isolate}
@media (max-width:720px){main{padding:20px 14px 40px}.top{padding:10px 14px}footer{padding:0 14px 24px}
.who{width:100%;justify-content:space-between}.name{max-width:26ch}.find{flex:1 1 100%}
.card{margin-top:4vh;padding:22px}.tiles{grid-template-columns:1fr 1fr}
.calls thead{display:none}.calls,.calls tbody{display:block}
.calls tr{display:grid;grid-template-columns:1fr auto;gap:2px 12px;padding:12px 14px;
border-bottom:1px solid var(--rule)}
.calls tr:last-child{border-bottom:0}.calls td{display:block;padding:0;border:0}
.calls td.n{text-align:left;grid-column:1/-1;color:var(--soft);font-size:13px;line-height:1.4}
.calls td.n::before{content:attr(data-name) " "}
.calls td:nth-child(1){grid-area:1/1}.calls td:nth-child(3){grid-area:1/2}.calls td:nth-child(2){grid-area:2/1}
.calls td:nth-child(3),.calls td:nth-child(7){justify-self:end}.calls td:nth-child(7){grid-area:2/2}}
"""
