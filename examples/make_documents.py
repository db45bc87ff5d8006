"""Write the DOCX and PDF examples. Their text is here; the other examples are edited by hand.

Run from anywhere: `python examples/make_documents.py`. The PDFs use the standard fonts every reader has, Japanese
included (HeiseiKakuGo-W5 by name, not embedded), which is how many business systems in Japan print.
"""

from __future__ import annotations

from pathlib import Path

from docx import Document
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Spacer

OUT = Path(__file__).parent / "documents"

HANDBOOK = [
    ("h1", "Employee handbook of Kumoi Instruments"),
    ("p", "This handbook applies to all staff of the Portland office. Questions go to the people team."),
    ("h2", "Working hours"),
    (
        "p",
        "The regular working week has 37.5 hours. Everybody is expected to be reachable between 10:00 and 15:00, which we call core time. Overtime must be agreed with the team lead in advance and is paid back as free time.",
    ),
    ("h2", "Annual leave"),
    (
        "p",
        "Full-time staff have 22 days of annual leave. After five years with the company two more days are added. Unused leave can be carried over until 31 March of the next year.",
    ),
    ("h2", "Remote work"),
    (
        "p",
        "Staff may work from home up to three days a week. Work from another country needs the approval of the people team and is limited to 20 days a year.",
    ),
    ("h2", "Expenses"),
    (
        "p",
        "Expense claims must be handed in within 30 days. The daily meal allowance on business trips is $58. Receipts are needed for every amount above $25.",
    ),
    ("h2", "Parental leave"),
    (
        "p",
        "Parents receive 16 weeks of paid parental leave. It can be taken in up to three parts before the first birthday of the child.",
    ),
    ("h2", "Training"),
    (
        "p",
        "The training budget is $1,200 per person and year. Language courses are organised by Priya Nair, who leads the people team.",
    ),
    ("table", [["Holiday", "Office"], ["Juneteenth", "closed"], ["Columbus Day", "open"], ["Thanksgiving", "closed"]]),
]

HANDBOOK_JA = [
    ("h1", "就業規則（抜粋）"),
    ("p", "この規則は東京本社のすべての社員に適用します。不明な点は人事課に問い合わせてください。"),
    ("h2", "勤務時間"),
    (
        "p",
        "所定の勤務時間は1日7時間45分です。全員が勤務する時間帯（コアタイム）は午前10時30分から午後3時30分までです。残業には事前に課長の承認が必要です。",
    ),
    ("h2", "年次有給休暇"),
    (
        "p",
        "入社1年目の年次有給休暇は13日です。勤続6年以上の社員の年次有給休暇は20日です。使わなかった休暇は翌年度まで繰り越せます。",
    ),
    ("h2", "在宅勤務"),
    ("p", "在宅勤務は週に2日まで認めます。在宅勤務手当は月額4,000円です。"),
    ("h2", "経費"),
    ("p", "経費の申請の締切は毎月20日です。出張の日当は2,700円です。1万円を超える支出には領収書の原本が必要です。"),
    ("h2", "育児休業"),
    ("p", "育児休業は子が2歳になるまで取得できます。申請は開始の1か月前までに行います。"),
    ("h2", "研修"),
    ("p", "資格取得の補助金は年間8万円までです。研修の担当者は人事課の大橋健一です。"),
    ("table", [["行事", "時期"], ["健康診断", "5月"], ["社員総会", "9月"], ["創立記念日", "10月12日"]]),
]

INCIDENT = [
    [
        ("h1", "Incident report 2025-03: outage of the measurement service"),
        ("p", "Date of the incident: 14 March 2025. Author: Tomas Lindqvist, reliability team."),
        ("h2", "Summary"),
        (
            "p",
            "On 14 March 2025 the measurement service was unavailable for 96 minutes. About 3,400 sensors could not upload their data during that time. No measurements were lost, because sensors keep them in memory for two days.",
        ),
        ("h2", "Cause"),
        (
            "p",
            "The outage was caused by an expired certificate on the load balancer. The reminder had been sent to the mailbox of an employee who had left the company.",
        ),
    ],
    [
        ("h2", "Timeline"),
        (
            "p",
            "At 06:12 the first uploads failed. At 06:40 a greenhouse customer called the support desk. At 07:48 the new certificate was installed and uploads worked again.",
        ),
        ("h2", "Cost"),
        ("p", "Service credits of $7,150 were paid to 38 customers."),
        ("h2", "Corrective actions"),
        (
            "p",
            "Certificates are now renewed automatically 21 days before they expire. Reminders go to the team mailbox. Hannah Osei is responsible for checking the renewal once a month.",
        ),
    ],
]

INCIDENT_JA = [
    [
        ("h1", "障害報告書 2025-07 受注システムの停止"),
        ("p", "発生日は2025年7月8日です。報告者は情報システム課の中西亮です。"),
        ("h2", "概要"),
        (
            "p",
            "2025年7月8日に受注システムが2時間25分停止しました。影響を受けた注文は212件です。注文のデータは失われていません。",
        ),
        ("h2", "原因"),
        (
            "p",
            "停止の原因はデータベースのディスク容量の不足です。古い記録を削除する夜間の処理が、3週間前から止まっていました。",
        ),
    ],
    [
        ("h2", "経過"),
        (
            "p",
            "午後1時5分に最初の警告が出ました。午後1時40分に担当者が調査を始めました。午後3時30分にディスクを追加し、システムが復旧しました。",
        ),
        ("h2", "費用"),
        ("p", "復旧作業の費用は46万円でした。"),
        ("h2", "再発防止策"),
        (
            "p",
            "ディスクの使用率が75パーセントを超えると警告を送ります。夜間の処理の結果は毎朝、当番が確認します。対策の責任者は吉岡直美です。",
        ),
    ],
]


def write_docx(name: str, title: str, parts: list[tuple[str, object]]) -> None:
    """One DOCX with headings, paragraphs and tables."""
    document = Document()
    document.core_properties.title = title
    for kind, content in parts:
        if kind == "table":
            rows = content
            assert isinstance(rows, list)
            table = document.add_table(rows=0, cols=len(rows[0]))
            for row in rows:
                for cell, text in zip(table.add_row().cells, row, strict=True):
                    cell.text = text
        elif kind == "p":
            document.add_paragraph(str(content))
        else:
            document.add_heading(str(content), level=int(kind[1]))
    document.save(str(OUT / name))


def write_pdf(
    name: str, title: str, pages: list[list[tuple[str, str]]], *, font: str, bold: str, wrap: str | None
) -> None:
    """One PDF, a page break after each group."""
    body = ParagraphStyle("body", fontName=font, fontSize=11, leading=17, wordWrap=wrap, spaceAfter=8)
    h1 = ParagraphStyle("h1", parent=body, fontName=bold, fontSize=17, leading=24)
    h2 = ParagraphStyle("h2", parent=body, fontName=bold, fontSize=13, leading=20)
    styles = {"h1": h1, "h2": h2, "p": body}
    flow: list[object] = []
    for number, page in enumerate(pages):
        if number:
            flow.append(PageBreak())
        for kind, text in page:
            flow.append(Paragraph(text, styles[kind]))
            flow.append(Spacer(1, 2))
    SimpleDocTemplate(str(OUT / name), pagesize=A4, title=title, author="Kumoi Instruments", invariant=1).build(flow)


def main() -> None:
    """Write all four files."""
    pdfmetrics.registerFont(UnicodeCIDFont("HeiseiKakuGo-W5"))
    write_docx("employee-handbook.docx", "Employee handbook", HANDBOOK)
    write_docx("handbook-ja.docx", "就業規則（抜粋）", HANDBOOK_JA)
    write_pdf(
        "incident-2025-03.pdf", "Incident report 2025-03", INCIDENT, font="Helvetica", bold="Helvetica-Bold", wrap=None
    )
    write_pdf(
        "incident-2025-07-ja.pdf",
        "障害報告書 2025-07",
        INCIDENT_JA,
        font="HeiseiKakuGo-W5",
        bold="HeiseiKakuGo-W5",
        wrap="CJK",
    )


if __name__ == "__main__":
    main()
