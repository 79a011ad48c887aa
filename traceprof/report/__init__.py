"""A profile -> bytes: one file per output, over the words and tables that all outputs share.

profile.json --document()--> Document --+--> html.py      one self-contained page, with charts
                                        +--> markdown.py  the same text and tables
profile.json --------------------------+--> terminal.py   the short form, for a console
                                        +--> json.py       the profile itself
                                        +--> charts.py     altair charts, for .svg and .png too

"""
