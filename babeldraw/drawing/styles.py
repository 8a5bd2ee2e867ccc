"""Styles: templates that a text is put into before it is read, as CogView2's commands have them.

Ding et al., "CogView2", 2022, whose code puts Chinese words behind a text; a network that was
trained on others has no use for these, and takes a template of its own.
"""

from babeldraw.errors import UserError

# Where the text goes.
PLACE = "{}"
# CogView2's: nothing; a thing alone and sharp; a photograph; flat; comics; oil paint; a sketch;
# isometric vectors; Chinese ink; watercolour.
STYLES = {
    "none": PLACE,
    "mainbody": "{} 高清摄影 隔绝",
    "photo": "{} 高清摄影",
    "flat": "{} 平面风格",
    "comics": "{} 漫画 隔绝",
    "oil": "{} 油画风格",
    "sketch": "{} 素描风格",
    "isometric": "{} 等距矢量图",
    "chinese": "{} 水墨国画",
    "watercolor": "{} 水彩画风格",
}


def template(style: str, name: str = "style") -> str:
    """What a text is put into.

    Args:
      style: of STYLES, or a template with one `{}` for the text, such as `{} in oil`.
      name: how the user calls it, for messages.

    Raises:
      UserError: neither.
    """
    if style in STYLES:
        return STYLES[style]
    if style.count(PLACE) != 1:
        raise UserError(
            f"{name} is {style!r}; the styles are {', '.join(STYLES)}, or give a template with one "
            "{} for the text"
        )
    return style


def styled(text: str, template: str) -> str:
    """A text in its template; one that says nothing stays as it is."""
    return template.replace(PLACE, text) if text.strip() else text
