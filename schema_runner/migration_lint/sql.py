"""Find SQL that would reach outside a worker schema."""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from ..postgres.function_bodies import strip_schema
from ..postgres.host import PUBLIC


class Kind(StrEnum):
    """How a statement reaches outside a worker schema. The values are predicates for messages."""

    PUBLIC = "names the schema public"
    DATABASE = "affects the whole database"
    CATALOG = "queries the catalog without a schema"


class Match(NamedTuple):
    """One match in SQL.

    `offset`: the position of the match, in characters.
    `text`: the matched SQL, with white space collapsed.
    """

    offset: int
    kind: Kind
    text: str


# The first words of statements, and of the parts of dynamic SQL: all upper case or all lower case,
# because "Select" begins a sentence rather than SQL.
_WORDS = (
    "ALTER|ANALYZE|BEGIN|CALL|CLUSTER|COMMENT|COPY|CREATE|DECLARE|DELETE|DO|DROP|EXECUTE|EXPLAIN"
    "|GRANT|IMPORT|INSERT|LOCK|MERGE|PERFORM|REASSIGN|REFRESH|REINDEX|REVOKE|SECURITY|SELECT|SET"
    "|TABLE|TRUNCATE|UPDATE|VACUUM|VALUES|WITH"
    "|AND|EXISTS|FROM|IN|INNER|INTO|JOIN|LEFT|ON|OR|REFERENCES|USING|WHERE"
)
KEYWORDS = rf"(?: {_WORDS} | {_WORDS.lower()} ) \b"

# A fast check: every match contains one of these.
_MAY_MATCH = re.compile(
    r"public | \b (?: pg_ | lo_ | information_schema )"
    r" | \b (?: ALTER | COMMENT | CREATE | DROP | FOREIGN | GRANT | REASSIGN | REVOKE ) \b",
    re.VERBOSE | re.IGNORECASE,
)
_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\n]* | /\* )
    | (?P<dollar> (?<![\w$]) \$ (?P<tag> (?:[^\W\d]\w*)? ) \$ ) (?P<body> .*? ) \$(?P=tag)\$
    | (?: (?P<remark> \b (?: IS | RAISE \s+ \w+ ) \s+ ) | (?P<code> \b (?: AS | DO ) \s+ ) )?
      (?: (?<![\w$]) E'(?P<escaped> (?:[^'\\] | '' | \\.)* )' | '(?P<plain> [^']* (?:''[^']*)* )' )
    | (?P<quoted> " [^"]* " )
    | (?P<end> ; )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_COMMENT_BORDER = re.compile(r"/\*|\*/")
# PostgreSQL folds unquoted names to lower case, but not quoted ones.
_PUBLIC_NAME = r'(?: (?<![\w$"]) (?i:public) (?![\w$"]) | "public" )'
_LITERAL_NAME = rf"""
    (?: [^',]*, )* \s* {_PUBLIC_NAME} \s* (?: ,[^']* )?
"""
# Literals that hold SQL or the name of a schema, rather than data.
_NAME = re.compile(
    rf"""
      \s* {_PUBLIC_NAME} \. (?: "[^"]*" | [\w$%]* ) (?: \(.*\) )? \s* \Z
    | {_LITERAL_NAME} \Z
    | \s* search_path \s* \Z
    | .* %I
    """,
    re.VERBOSE | re.DOTALL,
)
_PART = re.compile(rf"\s* {KEYWORDS}", re.VERBOSE)
_QUERY = re.compile(
    rf"\s* {KEYWORDS} .* (?: (?i: \b FROM \b | \b INTO \b ) | {_PUBLIC_NAME} \. )",
    re.VERBOSE | re.DOTALL,
)
_ITEM = r"""(?: "[^"]*" | '[^']*' | [\w$]+ )"""
_PUBLIC = re.compile(
    rf"""
      (?i: \bCREATE \s+ EXTENSION \b ) [^;]*
    | (?P<text>
        {_PUBLIC_NAME} \s*\.\s*
        (?: "[^"]*" | [\w%*{{}}]+ | [-+/<>=~!@\#^&|`?*%]+ | (?=') )
      | (?: (?i: \bSCHEMA (?: \s+ IF (?: \s+ NOT )? \s+ EXISTS )? ) \s+
          | (?i: \bsearch_path \s* (?: = | \bTO\b ) ) \s* )
        (?: {_ITEM} \s* , \s* )* (?: '{_PUBLIC_NAME}' | {_PUBLIC_NAME} )
      | (?P<literal> (?<= [\s(=,|'\[] ) ' {_LITERAL_NAME} ' )
      )
    """,
    re.VERBOSE,
)
_DATABASE = re.compile(
    r"""
      \bALTER \s+ (?: FOREIGN \s+ )? TABLE \b [^;]*  # Here, ALTER and DROP apply to columns.
    | \b (?P<text>
        (?: CREATE | ALTER | DROP | COMMENT \s+ ON ) \s+ (?: OR \s+ REPLACE \s+ )?
        (?: SCHEMA | DATABASE | TABLESPACE | ROLE | USER \s+ MAPPING | USER | GROUP | CAST
          | EVENT \s+ TRIGGER | PUBLICATION | SUBSCRIPTION | SERVER | TRANSFORM
          | FOREIGN \s+ DATA \s+ WRAPPER | ACCESS \s+ METHOD
          | (?: TRUSTED \s+ )? (?: PROCEDURAL \s+ )? LANGUAGE ) \b
      | (?: ALTER | DROP | COMMENT \s+ ON ) \s+ EXTENSION \b
      | (?: ALTER | COMMENT \s+ ON ) \s+ LARGE \s+ OBJECT \b
      | ALTER \s+ (?: SYSTEM | DEFAULT \s+ PRIVILEGES ) \b
      | (?: DROP | REASSIGN ) \s+ OWNED \b
      | IMPORT \s+ FOREIGN \s+ SCHEMA \b
      | (?: GRANT | REVOKE ) \s (?: (?! GRANT | REVOKE ) [^;'] )*? \b ON \s+
        (?: SCHEMA | DATABASE | TABLESPACE | LANGUAGE | LARGE \s+ OBJECT | PARAMETER
          | FOREIGN \s+ (?: SERVER | DATA \s+ WRAPPER ) ) \b
      | lo_ (?: creat | create | from_bytea | import | put | unlink ) (?= \s* \( )
      )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CATALOG_NAME = r"""
    \b (?: information_schema "? \s*\.\s* "? \w+
         | pg_ (?: aggregate | amop | amproc | attrdef | attribute | class | collation | constraint
                 | conversion | depend | description | enum | index | indexes | inherits
                 | matviews | opclass | operator | opfamily | partitioned_table | policies
                 | policy | proc | range | rewrite | rules | sequence | sequences
                 | statistic | statistic_ext | stats | stats_ext | tables | trigger | type | views
                 | ts_ (?: config | dict | parser | template )
                 | stat \w* _ (?: functions | indexes | sequences | tables ) ) ) \b
"""
_CATALOG = re.compile(_CATALOG_NAME, re.VERBOSE | re.IGNORECASE)
# With one of these, a catalog query is limited to a schema.
_SCOPED = re.compile(
    r"""
      \bcurrent_schemas? \b | _is_visible \b
    | \b (?: to_ )? reg (?: class | collation | config | dictionary | namespace | oper | operator
                          | proc | procedure | type ) \b
    | \b (?: nspname | schemaname | schema_name | \w+_schema ) \b "? \s*
      (?: = | \b I?LIKE \b | \b IN \b | ~ ) [\s(]* (?: ['%{] | \$\d | ANY \b )
    """,
    re.VERBOSE | re.IGNORECASE,
)
# In a statement with one of these, a literal 'public' is the schema; otherwise it may be data.
_ABOUT_SCHEMAS = re.compile(
    rf"""
      schema | nspname | namespace | search_path | {_CATALOG_NAME} | \bquote_ident\b
    | %I | %s"?\. | (?: Add | Drop | Update ) Geometry\w+ | Find_SRID
    """,
    re.VERBOSE | re.IGNORECASE,
)


def may_match(text: str) -> bool:
    """Return False if neither a text, nor SQL in it, contains a match. This is a fast check."""
    return bool(_MAY_MATCH.search(text))


def find_matches(sql: str) -> list[Match]:
    """Return the matches in one or more statements, by offset.

    Ignore comments, and literals that hold neither SQL nor the schema's name. Check dollar-quoted
    strings, because function bodies are SQL. Ignore `CREATE EXTENSION`, and function bodies from
    which the runner can remove the schema's name. For each statement, return only the first
    catalog it queries.
    """
    if not may_match(sql):
        return []
    sql = strip_schema(sql, PUBLIC)
    return [
        Match(start + begin, kind, " ".join(sql[start + begin : start + end].split()))
        for start, statement in mask_statements(sql)
        for kind, (begin, end) in _matches(statement)
    ]


def _matches(statement: str) -> list[tuple[Kind, tuple[int, int]]]:
    """Return the kinds of the matches in a statement, and their spans."""
    public = [match for match in _PUBLIC.finditer(statement) if match["text"]]
    if any(match["literal"] for match in public) and not _ABOUT_SCHEMAS.search(statement):
        public = [match for match in public if not match["literal"]]
    database = [match for match in _DATABASE.finditer(statement) if match["text"]]
    matches = [(Kind.PUBLIC, match.span()) for match in public]
    matches += [(Kind.DATABASE, match.span()) for match in database]
    catalog = _CATALOG.search(statement)
    if catalog and not _SCOPED.search(statement):
        matches.append((Kind.CATALOG, catalog.span()))
    return sorted(matches, key=lambda match: match[1])


def mask_statements(sql: str, *, is_body: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the offset and the text of each statement, with comments and data masked."""
    start = position = 0
    parts = []
    while token := _TOKEN.search(sql, position):
        parts.append(sql[position : token.start()])
        position = token.end()
        if token["comment"] == "/*":
            position = _end_of_comment(sql, position)
        parts.append(_mask(token, is_body).ljust(position - token.start()))
        if token["end"]:
            yield start, "".join(parts)
            start, parts = position, []
    yield start, "".join(parts) + sql[position:]


def _mask(token: re.Match[str], is_body: bool) -> str:
    """Return a token without comments and data."""
    if token["comment"]:
        return ""
    if token["dollar"]:
        # Parse the body separately, so that an unbalanced apostrophe in it ends with it.
        body = "".join(statement for _, statement in mask_statements(token["body"], is_body=True))
        return f"{token['dollar']}{body}{token['dollar']}"
    if token["quoted"]:
        return re.sub(r"\s", "#", token["quoted"])
    literal = token["plain"] if token["escaped"] is None else token["escaped"]
    if literal is None or token["code"]:
        return token.group()
    # Function bodies assemble SQL from parts. Elsewhere a literal is a whole query, or data.
    pattern = _PART if is_body else _QUERY
    if not token["remark"] and (_NAME.match(literal) or pattern.match(literal)):
        return token.group()
    before, _, _ = token.group().partition("'")
    return f"{before}'{'#' * len(literal)}'"


def _end_of_comment(sql: str, position: int) -> int:
    depth = 1
    while depth and (border := _COMMENT_BORDER.search(sql, position)):
        depth += 1 if border.group() == "/*" else -1
        position = border.end()
    return position if depth == 0 else len(sql)
