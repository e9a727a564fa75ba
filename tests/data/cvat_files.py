"""Small annotations in CVAT's XML."""

LABELS = """
<labels>
  <label><name>person</name><attributes>
    <attribute><name>action</name><input_type>select</input_type><values>none\nwalk\nsit</values></attribute>
    <attribute><name>talks</name><input_type>checkbox</input_type><values>false</values></attribute>
    <attribute><name>age</name><input_type>number</input_type><values>1\n99</values></attribute>
  </attributes></label>
  <label><name>dog barks</name><attributes></attributes></label>
</labels>"""


def task(number, name, *, source=None):
    tag = f"<source>{source}</source>" if source else ""
    return f"<task><id>{number}</id><name>{name}</name><size>99</size>{LABELS}{tag}</task>"


def box(frame, left=1, *, action="walk", talks="false", outside=0):
    return (
        f'<box frame="{frame}" outside="{outside}" occluded="0" keyframe="1" xtl="{left}.00" ytl="2" xbr="30.5" '
        f'ybr="40" z_order="0"><attribute name="action">{action}</attribute>'
        f'<attribute name="talks">{talks}</attribute><attribute name="age">33</attribute></box>\n'
    )


def write_xml(path, body, *, tasks=None):
    meta = f"<meta>{tasks or task(7, 'my task', source='a.mp4')}</meta>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}\n{body}</annotations>'
    )
    return path
