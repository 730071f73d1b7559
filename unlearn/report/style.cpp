// The report's style sheet: system fonts only, both colour schemes, wide tables scroll inside their own box.
#include "unlearn/report/parts.h"

namespace uipe::unlearn {

std::string style_sheet() {
    return R"css(
:root { color-scheme: light dark; --paper: #fdfcfa; --card: #ffffff; --ink: #23262b; --soft: #686e78; --rule: #e4e1da;
        --accent: #2b6cb0; --warm: #b4531f; --good: #1d7a50; --wash: #f4f2ec; }
@media (prefers-color-scheme: dark) {
    :root { --paper: #16181c; --card: #1d2025; --ink: #e3e4e6; --soft: #9aa0aa; --rule: #31353c; --accent: #7fb2e8;
            --warm: #e39a6c; --good: #6fc79c; --wash: #22262c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
       font: 17px/1.6 Charter, "Bitstream Charter", "Iowan Old Style", "Palatino Linotype", Georgia, serif; }
main { max-width: 1080px; margin: 0 auto; padding: 56px 32px 96px; }
h1 { font-size: 2.3rem; line-height: 1.15; letter-spacing: -0.015em; font-weight: 600; margin: 0 0 0.5rem; max-width: 24ch; }
h2 { font-size: 1.45rem; line-height: 1.25; font-weight: 600; margin: 0 0 0.8rem; }
section { margin-top: 3.6rem; }
#curves h2 + .legend, #alpha h2 + .legend { margin-top: 0; }
#curves .grid + h2 { margin-top: 2.4rem; }
p { margin: 0 0 0.9rem; max-width: 46rem; }
.lead { font-size: 1.12rem; color: var(--soft); }
.facts { display: flex; flex-wrap: wrap; gap: 0.9rem 2.6rem; margin: 1.8rem 0 0; padding: 1rem 0; border: solid var(--rule);
         border-width: 1px 0; }
.facts div { min-width: 0; }
.facts dt, table, .legend, .badge, .card dt, summary, h3, h4, figcaption, .missing { font-family: system-ui, -apple-system,
         "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
.facts dt { font-size: 0.78rem; color: var(--soft); }
.facts dd { margin: 0; }
.scroll + p, .scroll + .legend, .grid + p { margin-top: 1.4rem; }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 8px; background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: 0.86rem; line-height: 1.45; overflow-wrap: normal;
        font-variant-numeric: tabular-nums; }
th, td { padding: 0.38rem 0.9rem; text-align: left; vertical-align: baseline; }
thead th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--rule); }
#results thead th:nth-child(n+2), td.number { text-align: right; white-space: nowrap; }
#comparison thead th:last-child { text-align: right; }
tbody + tbody tr:first-child > * { border-top: 1px solid var(--rule); }
.group th { padding-top: 0.8rem; font-weight: 600; }
.group .reason { font-weight: 400; color: var(--soft); margin-left: 0.6em; }
#results tbody td:first-child, #comparison tbody td:first-child { white-space: nowrap; padding-left: 2.1rem; }
#results .reference td:first-child { padding-left: 0.9rem; }
tbody tr > * { background: var(--card); }
tbody tr.uipe > td { background: color-mix(in srgb, var(--accent) 7%, var(--card)); }
tr.control td { color: var(--soft); }
.passes, tr td.passes { font-weight: 700; color: var(--good); }
.over { color: var(--warm); }
.muted { color: var(--soft); }
td .muted { font-size: 0.92em; margin-left: 0.35em; white-space: nowrap; }
td.pair { white-space: nowrap; }
sup { font-size: 0.72em; line-height: 0; }
.note, figcaption { color: var(--soft); font-size: 0.9rem; line-height: 1.5; margin-top: 0.7rem; }
.swatch { display: inline-block; width: 0.72em; height: 0.72em; border-radius: 50%; margin-right: 0.5em; }
.legend { display: flex; flex-wrap: wrap; gap: 0.3rem 1.3rem; list-style: none; margin: 0 0 0.8rem; padding: 0;
          font-size: 0.86rem; color: var(--soft); }
.legend b { color: var(--ink); font-weight: 400; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 1.4rem; }
figure { margin: 0; padding: 1rem 1.1rem; border: 1px solid var(--rule); border-radius: 8px; background: var(--card);
         min-width: 0; }
figure h3 { margin: 0 0 0.5rem; font-size: 0.95rem; font-weight: 600; }
.plot { overflow-x: auto; }
.plot svg { display: block; width: 100%; max-width: 100%; height: auto; }
.plot svg text, .plot svg tspan { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
.wide svg { max-width: 740px; margin: 0 auto; }
.missing { color: var(--warm); font-size: 0.9rem; }
.reading { background: var(--wash); border-radius: 10px; padding: 1.5rem 1.8rem; }
.reading dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 1rem 2.4rem;
              margin: 0; }
.reading dt { font-weight: 600; }
.reading dd { margin: 0; font-size: 0.95rem; line-height: 1.5; }
details { border-top: 1px solid var(--rule); }
details:last-of-type { border-bottom: 1px solid var(--rule); }
summary { cursor: pointer; padding: 0.7rem 0; font-size: 0.95rem; font-weight: 600; }
details .scroll { margin-bottom: 1.2rem; }
.setting { max-width: 22rem; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 1rem;
         padding: 0.3rem 0 1.4rem; }
.card { border: 1px solid var(--rule); border-radius: 8px; background: var(--card); padding: 1rem 1.1rem; min-width: 0; }
.card h4 { margin: 0 0 0.7rem; font-size: 0.95rem; line-height: 1.4; font-weight: 600; }
.card dl { margin: 0; font-size: 0.93rem; line-height: 1.45; }
.card dt { font-size: 0.75rem; color: var(--soft); }
.card dd { margin: 0 0 0.55rem; white-space: pre-wrap; }
.badge { font-size: 0.7rem; font-weight: 500; padding: 0.1rem 0.5rem; border-radius: 99px; border: 1px solid; margin-right: 0.3rem; }
.badge.forget { color: var(--warm); }
.badge.retain { color: var(--good); }
@media (max-width: 600px) {
    body { font-size: 16px; }
    main { padding: 32px 16px 64px; }
    h1 { font-size: 1.75rem; }
    section { margin-top: 2.6rem; }
    th, td { padding: 0.35rem 0.6rem; }
    #results tbody td:first-child, #comparison tbody td:first-child { padding-left: 0.9rem; white-space: normal;
        min-width: 8.2rem; position: sticky; left: 0; }
    #results .reference td:first-child { padding-left: 0.6rem; }
    .group .reason { display: block; margin-left: 1.4em; max-width: 80vw; }
    td.pair .muted { display: block; margin: 0; }
    .reading { padding: 1rem; }
    figure { padding: 0.8rem 0.5rem; }
    figure h3, figcaption { padding: 0 0.4rem; }
    .facts { gap: 0.8rem 1.6rem; } }
@media print { .cards, .grid { display: block; } figure, .card { break-inside: avoid; margin-bottom: 1rem; } }
)css";
}

}  // namespace uipe::unlearn
