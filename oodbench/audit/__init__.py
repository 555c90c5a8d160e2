"""How far attacked figures can be trusted: whether the attack behind each was healthy.

A robustness figure is an upper bound that a better attack may lower. An audit looks at the search
behind a stored record and tries others against it, on a sample of the images; what it finds lies
beside the record and is marked in tables. `checks` says what passes, `measuring` tries, `running`
goes through the cells of a plan, `storing` keeps the results.
"""
