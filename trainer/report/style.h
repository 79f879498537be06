#pragma once

namespace pocketvlm {

/// The look of the report: one column of sections, readable on a phone, light and dark.
inline constexpr const char* kReportStyle = R"css(
:root{--ink:#1d2733;--soft:#5d6b7a;--paper:#fbfaf7;--card:#fff;--rule:#e3e0d8;--yes:#2e7d5b;--no:#c0392b}
@media (prefers-color-scheme:dark){:root{--ink:#e8e6e1;--soft:#a2acb6;--paper:#16191d;--card:#20252b;--rule:#343b43;--yes:#6cc79d;--no:#ff8a7a}}
*{box-sizing:border-box}body{margin:0;font:16px/1.5 "Noto Sans",system-ui,sans-serif;color:var(--ink);background:var(--paper)}
header{padding:2.5rem 1.5rem 1.5rem;background:linear-gradient(120deg,#24405e,#2e7d5b);color:#fff}
header h1{margin:0 auto 1.2rem;max-width:1160px;font-size:2rem;letter-spacing:-.01em}
.cards{display:flex;flex-wrap:wrap;gap:.8rem;max-width:1160px;margin:0 auto}
.card{background:#ffffff1f;border-radius:.6rem;padding:.7rem 1rem;min-width:9rem}.card b{display:block;font-size:1.45rem;line-height:1.2}.card span{font-size:.85rem;opacity:.9}
main,footer{max-width:1160px;margin:0 auto;padding:0 1.5rem}footer{padding:2rem 1.5rem 3rem;color:var(--soft);font-size:.9rem}
h2{margin:2.6rem 0 .6rem;font-size:1.35rem}h3{margin:.2rem 0;font-size:1rem}
.key i{display:inline-block;width:.9rem;height:.9rem;border-radius:.2rem;margin:0 .35rem 0 .8rem;vertical-align:-.1rem}
.stages{display:grid;grid-template-columns:repeat(auto-fill,minmax(255px,1fr));gap:1rem}
.stage,.look,.choice{background:var(--card);border:1px solid var(--rule);border-radius:.7rem;padding:.9rem 1rem}
.stage p{margin:.2rem 0 .5rem;color:var(--soft);font-size:.84rem}
.component{color:#14202b;border-radius:.35rem;padding:.3rem .6rem;margin:.25rem 0;font-size:.78rem;line-height:1.3}.component b{display:block;font-size:.85rem}
.chart{width:100%;height:auto;margin-top:.3rem}.chart .title{font-size:12px;font-weight:600;fill:var(--ink)}.chart .tick{font-size:10px;fill:var(--soft)}.chart .grid{stroke:var(--rule)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:1.2rem;margin-bottom:1rem}
.bars{display:grid;grid-template-columns:max-content 1fr max-content;gap:.35rem .8rem;align-items:center;font-size:.88rem}
.bars i{background:var(--rule);border-radius:.3rem;height:.95rem;overflow:hidden}.bars b{display:block;height:100%;border-radius:.3rem}.bars em{font-style:normal;color:var(--soft)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;width:100%}th,td{padding:.45rem .6rem;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}th:first-child{text-align:left}tr:first-child th{white-space:normal;vertical-align:bottom;color:var(--soft);font-weight:600}
.look{display:grid;grid-template-columns:200px 1fr;gap:1.2rem;margin:.8rem 0}.look figure{margin:0}.look img{width:200px;border-radius:.5rem;image-rendering:auto}.look figcaption{font-size:.85rem;color:var(--soft)}
.look dl{margin:0;display:grid;grid-template-columns:8.2rem 1fr;gap:.2rem .8rem;font-size:.88rem;align-content:start}.look dt{color:var(--soft)}.look dd{margin:0}
u{text-decoration:none;font-weight:600}u.yes{color:var(--yes)}u.no{color:var(--no)}
.choices{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:1rem;margin-top:1rem}.choice p{margin:.2rem 0;font-size:.88rem}.choice b{display:block;font-size:.78rem}.chosen b{color:var(--yes)}.rejected b{color:var(--no)}
@media (max-width:640px){.look{grid-template-columns:1fr}.look dl{grid-template-columns:1fr}.look dt{font-weight:600;margin-top:.3rem}}
)css";

}  // namespace pocketvlm
