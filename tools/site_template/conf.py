"""Sphinx's settings for the site. Everything that a page loads lies in its own folder: no request leaves it."""

from docutils import nodes

project = "From DDPM to SEDD"
author = "The text-diffusion-course authors"
copyright = "text and figures CC BY 4.0, code MIT"
extensions = ["myst_nb"]
exclude_patterns = ["_build"]
nb_execution_mode = "off"  # the stored outputs are shown
nb_code_prompt_show, nb_code_prompt_hide = "Code of the figure", "Hide the code"
nb_render_markdown_format = "gfm"
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "text/markdown", 1), ("html", "image/png", 2)]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 3
myst_update_mathjax = False  # formulas inside hints are set, too
suppress_warnings = ["myst.header", "myst.xref_missing", "misc.highlighting_failure", "config.cache"]
html_theme = "sphinx_book_theme"
html_title = "From DDPM to SEDD"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_persistent": [],  # the field for searching stands in the sidebar
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "show_navbar_depth": 1,
    "home_page_in_toc": True,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
mathjax_path = "tex-svg-full.js"
mathjax3_config = mathjax4_config = {
    "tex": {
        "inlineMath": [["\\(", "\\)"], ["$", "$"]],
        "displayMath": [["\\[", "\\]"], ["$$", "$$"]],
        "tags": "ams",
    },
    "options": {
        "ignoreHtmlClass": "tex2jax_ignore|mathjax_ignore|document",
        "processHtmlClass": "tex2jax_process|mathjax_process|math|output_area",
        "enableMenu": False,
    },
}


def whole_formulas(app, doctree, name):
    """Sphinx splits formulas at line breaks, and a number may not stand in a split: hand them to MathJax as written."""
    for block in doctree.findall(nodes.math_block):
        if not block.get("nowrap"):
            block["nowrap"] = block["no-wrap"] = True
            block.children = [nodes.Text(rf"\[{block.astext()}\]")]


def setup(app):
    app.connect("doctree-resolved", whole_formulas)
