"""How the page looks, in light and in dark, from the width of a telephone on."""

STYLE = """
:root{color-scheme:light dark;--ink:#1c1c1c;--paper:#fff;--soft:#555;--line:#ccc;--focus:#0a58ca;--good:#1d6b47;
--learned:#d9f2e3;--ground0:#e3edf9;--ground1:#fbecd9}
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e8;--paper:#16181b;--soft:#b0b0b0;--line:#444;--focus:#8ab8ff;
--good:#7fd6a8;--learned:#1d4a35;--ground0:#1c3049;--ground1:#43301a}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:70rem;margin:auto;
padding:1rem}
h1,h3,summary,figcaption,p{overflow-wrap:anywhere}
h2{margin:2.5rem 0 .5rem;padding-top:.5rem;border-top:1px solid var(--line)}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem}
a{color:var(--focus);padding:.2rem 0}
:is(a,pre,summary,.wide):focus-visible{outline:3px solid var(--focus);outline-offset:2px}
.wide{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse}
@media(max-width:60rem){table{width:max-content}}
caption{text-align:left;color:var(--soft);padding:.3rem 0;max-width:calc(100vw - 3rem)}
th,td{text-align:left;padding:.3rem 1rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top;
max-width:26rem;overflow-wrap:break-word}
tbody th{white-space:nowrap}
.number{text-align:right;font-variant-numeric:tabular-nums}
figure{margin:1.5rem 0}
figure .wide svg{display:block;min-width:54rem;width:100%}
figcaption{color:var(--soft)}
details{margin:.5rem 0}
summary{cursor:pointer;padding:.2rem 0}
.row{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}
.row pre{flex:1 1 20rem;min-width:0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid var(--line);padding:.6rem;margin:.4rem 0;
max-height:30rem;overflow-y:auto;font-size:14px;line-height:1.7}
mark{background:var(--learned);color:inherit;border-bottom:2px solid var(--good)}
:is(.document0,.document1) mark{background:none}
.read{color:var(--soft)}
.document0{background:var(--ground0)}
.document1{background:var(--ground1)}
.heading{display:block;font:600 14px system-ui,sans-serif;padding:.2rem 0;color:var(--ink);background:var(--paper)}
.mask{width:9rem;height:9rem;border:1px solid var(--line);margin:.4rem 0;flex:none}
.mask .document0{fill:#3b82c4}
.mask .document1{fill:#c2621b}
"""
