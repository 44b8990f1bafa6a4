"""Every kind of object that migrations can create, used by several workers."""

from collections.abc import Iterator

import pytest

from ..apps.catalog import describe
from ..project import PARALLEL, SERIAL, WITH_STOCK, Project
from .test_roles import roles

pytestmark = pytest.mark.oldest

MODELS = """
    from django.contrib.postgres.fields import IntegerRangeField
    from django.db import models
    from django.db.models.functions import Length, Upper

    class Author(models.Model):
        name = models.CharField(max_length=100, unique=True, db_collation="plain")
        shout = models.GeneratedField(expression=Upper("name"), db_persist=True,
            output_field=models.CharField(max_length=100), db_comment="Generated")
        born = models.IntegerField(default=2000, db_default=2000, db_comment="The year")

        class Meta:
            db_table_comment = "Who writes"
            constraints = [
                models.CheckConstraint(condition=models.Q(born__gt=0), name="born_once"),
                models.UniqueConstraint(Length("name"), "born", name="rarely"),
            ]

    class Book(models.Model):
        title = models.CharField(max_length=100)
        author = models.ForeignKey(Author, models.CASCADE, null=True)
        lines = IntegerRangeField(null=True)

        class Meta:
            indexes = [models.Index(fields=["title"], name="some_titles", include=["author"],
                condition=models.Q(title__gt="A"))]
            constraints = [models.UniqueConstraint(fields=["title", "author"], name="once",
                deferrable=models.Deferrable.DEFERRED)]

    class Reading(models.Model):
        pk = models.CompositePrimaryKey("day", "number")
        day = models.DateField()
        number = models.IntegerField()

        class Meta: managed, db_table = False, "readings"

    class Shelf(models.Model):
        label = models.TextField(primary_key=True)
        books = models.IntegerField()
        class Meta: managed, db_table = False, "shelves"
"""
INITIAL = """
    from django.contrib.postgres.operations import CreateCollation
    from django.db import migrations
    from helpers.migrations import created
    from library import models

    class Migration(migrations.Migration):
        initial = True
        operations = [
            CreateCollation("plain", locale="C"),
            *COLLATIONS,
            *created(models.Author, models.Book),
        ]
"""
ICU = """
    CreateCollation("careless", provider="icu", locale="und-u-ks-level2", deterministic=False),
"""
OBJECTS = """
    CREATE TYPE mood AS ENUM ('good', 'bad');
    ALTER TYPE mood ADD VALUE 'fair' BEFORE 'bad';
    CREATE DOMAIN label text COLLATE plain DEFAULT 'none' CONSTRAINT not_empty CHECK (VALUE <> '');
    CREATE TYPE span AS RANGE (subtype = float8, multirange_type_name = spans);
    CREATE TYPE point3 AS (x int, y int, at label);
    CREATE FUNCTION slug(text) RETURNS text LANGUAGE sql IMMUTABLE AS
    'SELECT lower(replace($1, '' '', ''-''))';
    CREATE FUNCTION same_slug(label, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS
    'SELECT slug($1) = slug($2)';
    CREATE OPERATOR ~=~ (FUNCTION = same_slug, LEFTARG = label, RIGHTARG = text);
    CREATE FUNCTION backwards(int, int) RETURNS int LANGUAGE sql IMMUTABLE
    BEGIN ATOMIC SELECT $2 - $1; END;
    CREATE OPERATOR CLASS backwards_ops FOR TYPE int USING btree AS
        OPERATOR 1 >, OPERATOR 2 >=, OPERATOR 3 =, OPERATOR 4 <=, OPERATOR 5 <,
        FUNCTION 1 backwards(int, int);
    CREATE INDEX newest ON library_author (born backwards_ops);
    CREATE FUNCTION to_number(mood) RETURNS int LANGUAGE sql IMMUTABLE AS
    'SELECT CASE $1 WHEN ''good'' THEN 1 ELSE 0 END';
    CREATE CAST (mood AS int) WITH FUNCTION to_number(mood);
    CREATE AGGREGATE longest(text) (SFUNC = text_larger, STYPE = text);
    CREATE TEXT SEARCH DICTIONARY short (TEMPLATE = simple, STOPWORDS = english);
    CREATE TEXT SEARCH CONFIGURATION prose (COPY = simple);
    ALTER TEXT SEARCH CONFIGURATION prose ALTER MAPPING FOR asciiword WITH short;
    ALTER TABLE library_book
        ADD words tsvector GENERATED ALWAYS AS (to_tsvector('prose', title)) STORED,
        ADD slug text GENERATED ALWAYS AS (slug(title)) STORED,
        ADD mood mood NOT NULL DEFAULT 'good', ADD at point3, ADD label label,
        ADD shared int, ADD moods mood[] NOT NULL DEFAULT '{}';
    CREATE INDEX by_words ON library_book USING gin (words);
    CREATE STATISTICS correlated (dependencies) ON title, mood FROM library_book;
    CREATE SEQUENCE ticket START 100 INCREMENT 10;
    ALTER TABLE library_book ALTER shared SET DEFAULT nextval('ticket');
    CREATE TABLE tickets (id int DEFAULT nextval('ticket') PRIMARY KEY,
        always int GENERATED ALWAYS AS IDENTITY (START 7),
        during span, EXCLUDE USING gist (during WITH &&));
    CREATE TABLE paper_tickets (paper text) INHERITS (tickets);
    CREATE UNLOGGED TABLE scratch (note text);
    ALTER TABLE scratch SET (fillfactor = 70);
    CREATE TABLE readings (day date, number int, PRIMARY KEY (day, number))
        PARTITION BY RANGE (day);
    CREATE TABLE readings_early PARTITION OF readings FOR VALUES FROM (MINVALUE) TO ('2030-01-01');
    CREATE TABLE readings_rest PARTITION OF readings DEFAULT PARTITION BY HASH (number);
    CREATE TABLE readings_rest_0 PARTITION OF readings_rest
        FOR VALUES WITH (MODULUS 1, REMAINDER 0);
    CREATE INDEX by_number ON readings (number);
    CREATE VIEW shelves AS
    SELECT label, count(*) AS books FROM library_book WHERE label IS NOT NULL GROUP BY label;
    CREATE VIEW some_books WITH (security_barrier) AS
    SELECT id, title, mood FROM library_book WHERE mood = 'good' WITH CHECK OPTION;
    CREATE MATERIALIZED VIEW moods AS SELECT mood, span(0, count(*)) AS counted
    FROM library_book GROUP BY mood;
    CREATE UNIQUE INDEX one_mood ON moods (mood);
    CREATE RULE remember AS ON INSERT TO shelves DO INSTEAD INSERT INTO scratch VALUES (NEW.label);
    CREATE TABLE log (entry text);
    CREATE FUNCTION log_it() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS
    'BEGIN INSERT INTO log VALUES (TG_ARGV[0] || slug(NEW.title)); RETURN NULL; END';
    CREATE TRIGGER logs AFTER INSERT OR UPDATE OF title ON library_book
        FOR EACH ROW WHEN (NEW.title <> 'silent') EXECUTE FUNCTION log_it('new ');
    CREATE FUNCTION need_author() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS
    'BEGIN IF (SELECT author_id IS NULL FROM library_book WHERE id = NEW.id) THEN
     RAISE ''no author''; END IF; RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER needs_author AFTER INSERT ON library_book
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION need_author();
    CREATE PROCEDURE forget(INOUT many bigint) LANGUAGE plpgsql AS
    'BEGIN DELETE FROM log; GET DIAGNOSTICS many = ROW_COUNT; END';
    CREATE TABLE secrets (owner text, secret text);
    CREATE FUNCTION me() RETURNS text STABLE LANGUAGE sql AS
    'SELECT current_setting(''library.me'', true)';
    ALTER TABLE secrets ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON secrets TO READER USING (owner = me()) WITH CHECK (owner = me());
    GRANT SELECT, INSERT ON secrets TO READER;
    GRANT SELECT (title) ON library_book TO READER;
    COMMENT ON TYPE mood IS 'How it is';
    COMMENT ON FUNCTION slug(text) IS 'For addresses';
    COMMENT ON CONSTRAINT once ON library_book IS 'Or twice';
    COMMENT ON INDEX newest IS 'Backwards';
"""
TESTS = """
    from django.contrib.postgres.search import SearchQuery, SearchVector
    from django.db import DatabaseError, IntegrityError
    from library.models import Reading, Shelf

    class Using:
        def setUp(self):
            self.author = Author.objects.create(name="Ann")
            self.book = Book.objects.create(title="The Old Word", author=self.author)
        def test_types(self):
            query("UPDATE library_book SET at = (1, 2, 'here'), moods = '{good,bad}',"
                  " label = 'X y'")
            self.assertEqual(
                query("SELECT (at).at ~=~ 'HERE', moods[1] < 'fair', mood::int, label ~=~ 'x-Y',"
                      " spans(span(1, 2)) * '{[1.5,9)}', slug, longest(title) OVER ()"
                      " FROM library_book"),
                [(True, True, 1, True, query("SELECT '{[1.5,2)}'::spans")[0][0],
                  "the-old-word", "The Old Word")],
            )
            with self.assertRaisesMessage(IntegrityError, "not_empty"), transaction.atomic():
                query("UPDATE library_book SET label = ''")

        def test_models(self):
            self.author.refresh_from_db()
            self.assertEqual((self.author.shout, self.author.born), ("ANN", 2000))
            Author.objects.bulk_create([Author(name="b"), Author(name="Cecil")])
            names = list(Author.objects.order_by("name").values_list("name", flat=True))
            self.assertEqual(names, ["Ann", "Cecil", "b"])
            for name, born in (("Eve", 2000), ("Dorothy", 0)):
                with self.assertRaises(IntegrityError), transaction.atomic():
                    Author.objects.create(name=name, born=born)

        def test_search(self):
            books = Book.objects.annotate(found=SearchVector("title", config="prose"))
            for text, number in (("word", 1), ("words", 0), ("the", 0)):
                found = books.filter(found=SearchQuery(text, config="prose"))
                self.assertEqual(found.count(), number, text)
            ((words,),) = query("SELECT words::text FROM library_book")
            self.assertEqual(words, "'old':2 'word':3")

        def test_tables(self):
            first = query("INSERT INTO tickets (during) VALUES ('[1,2)') RETURNING id, always")
            second = query("INSERT INTO paper_tickets (always) VALUES (1) RETURNING id")
            query("UPDATE library_book SET shared = DEFAULT")
            ((third,),) = query("SELECT shared FROM library_book")
            self.assertEqual([second[0][0], third], [first[0][0] + 10, first[0][0] + 20])
            self.assertGreaterEqual(first[0][1], 7)
            self.assertEqual(query("SELECT count(*) FROM tickets"), [(2,)])
            with self.assertRaises(IntegrityError), transaction.atomic():
                query("INSERT INTO tickets (during) VALUES ('[1.5,3)')")
            for day in ("2029-12-31", "2031-01-01"):
                Reading.objects.create(day=day, number=1)
            self.assertEqual(Reading.objects.count(), 2)
            self.assertEqual(query("SELECT count(*) FROM readings_rest_0"), [(1,)])
            query("DELETE FROM readings; DELETE FROM tickets")

        def test_views(self):
            query("UPDATE library_book SET label = 'top'")
            self.assertEqual(Shelf.objects.get().books, 1)
            Shelf.objects.create(label="ruled", books=0)
            self.assertEqual(query("SELECT note FROM scratch"), [("ruled",)])
            with self.assertRaises(DatabaseError), transaction.atomic():
                query("UPDATE some_books SET mood = 'bad'")
            query("REFRESH MATERIALIZED VIEW moods")
            self.assertEqual(query("SELECT mood::text, counted::text FROM moods"),
                             [("good", "[0,1)")])
            query("DELETE FROM scratch")

        def test_routines(self):
            self.assertEqual(query("SELECT entry FROM log"), [("new the-old-word",)])
            self.assertEqual(query("CALL forget(0)"), [(1,)])
            with self.assertRaisesMessage(DatabaseError, "no author"), transaction.atomic():
                Book.objects.create(title="silent")
                query("SET CONSTRAINTS needs_author IMMEDIATE")
            with transaction.atomic():
                book = Book.objects.create(title="silent")
                Book.objects.filter(pk=book.pk).update(author=self.author)
            self.assertEqual(query("SELECT count(*) FROM log"), [(0,)])

        def test_security(self):
            with transaction.atomic():
                query("SET LOCAL ROLE READER; SET LOCAL library.me = 'a'")
                query("INSERT INTO secrets VALUES ('a', 'of a')")
                query("SET LOCAL library.me = 'b'")
                self.assertEqual(query("SELECT secret FROM secrets"), [])
                query("INSERT INTO secrets VALUES ('b', 'of b')")
                self.assertEqual(query("SELECT secret FROM secrets"), [("of b",)])
                self.assertEqual(query("SELECT title FROM library_book"), [("The Old Word",)])
                for refused in ("SELECT * FROM library_book", "DELETE FROM secrets",
                                "INSERT INTO secrets VALUES ('a', 'of b')"):
                    with self.assertRaises(DatabaseError), transaction.atomic():
                        query(refused)
                query("RESET ROLE")
            query("DELETE FROM secrets")

        def test_comments(self):
            with connection.cursor() as cursor:
                (table,) = [table for table in connection.introspection.get_table_list(cursor)
                            if table.name == "library_author"]
                columns = connection.introspection.get_table_description(cursor, "library_author")
            self.assertEqual(table.comment, "Who writes")
            comments = {column.name: column.comment for column in columns}
            self.assertEqual((comments["shout"], comments["born"]), ("Generated", "The year"))
            self.assertEqual(query("SELECT obj_description('newest'::regclass)"), [("Backwards",)])
    class First(Using, TestCase): pass
    @schema_runner.own_database
    class Second(Using, TestCase): pass

    class Third(Using, TransactionTestCase):
        reset_sequences = True
        def tearDown(self): query("DELETE FROM log")
        def test_concurrently(self):
            query("REFRESH MATERIALIZED VIEW CONCURRENTLY moods")
            with self.assertRaisesMessage(DatabaseError, "no author"):
                Book.objects.create(title="at commit")
    @schema_runner.own_database
    class Fourth(Third): pass
"""
CARELESS = """

    class Careless(TestCase):
        def test_collation(self):
            self.assertEqual(query("SELECT 'a' = 'A' COLLATE careless"), [(True,)])
    class CarelessToo(Careless): pass
"""


@pytest.fixture
def role(project: Project) -> Iterator[str]:
    """A role that owns nothing."""
    name = f"{project.name}_reader"
    with roles(project, **{name: ""}):
        yield name


def facts(project: Project, database: str, schema: str) -> set[str]:
    with project.host(database) as connection:
        # A routine's own search_path names the worker schema before public.
        described = describe(connection, schema)
        return {fact.replace("{schema}., public.", "{schema}.") for fact in described}


def test_every_kind_of_object(project: Project, role: str) -> None:
    """Every worker's tests find all objects, and the catalog entries are those of stock Django."""
    collations = "SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu'"
    icu = project.query(collations, database="postgres") == [(1,)]
    project.configure('INSTALLED_APPS.append("django.contrib.postgres")')
    project.write("library/models.py", MODELS)
    project.write(
        "library/migrations/0001_initial.py", INITIAL.replace("*COLLATIONS,", ICU if icu else "")
    )
    statements = OBJECTS.replace("READER", role)
    project.migration("0002_objects", "0001_initial", f"migrations.RunSQL({statements!r})")
    project.tests(TESTS.replace("READER", role) + (CARELESS if icu else ""))
    described = []
    for mode in (WITH_STOCK, SERIAL, PARALLEL):
        result = project.run(*mode, "--keepdb").passed(f"Ran {36 if icu else 34} tests")
        # Classes with their own database get these objects from the template.
        assert "runs the migrations" not in result.output
        schemas = [name for name in project.schemas() if name.startswith("test_w")] or ["public"]
        places = [(project.test_name, schema) for schema in schemas]
        # Worker 2 has a database of its own if a function sets its search_path to public.
        own = f"{project.test_name}_2"
        places += [(own, "public")] if own in project.databases() else []
        described += [facts(project, *place) for place in places]
        for database in project.databases():
            project.drop_database(database)
    assert len(described) == 4
    for found in described[1:]:
        assert found ^ described[0] == set()


# Functions that name the project's tables in `public`, like those of django-pgtrigger.
NAMING_PUBLIC = """
    migrations.RunSQL('''
        CREATE TABLE written (title text);
        CREATE FUNCTION public.written_to(title text) RETURNS void LANGUAGE sql AS
            $$ INSERT INTO "public"."written" VALUES (title) $$;
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql {} AS $$
            DECLARE last public.library_book%ROWTYPE;  -- of public.library_book, 'public'
            BEGIN
                SELECT * INTO last FROM Public.library_book ORDER BY id DESC LIMIT 1;
                PERFORM "public".written_to(last.title); RETURN NEW;
            END $$;
        CREATE TRIGGER note AFTER INSERT ON library_book FOR EACH ROW EXECUTE FUNCTION note();
    '''),
"""
WRITING = """
    class First(Recording, TestCase):
        def test_it(self):
            author = Author.objects.create(name="a")
            Book.objects.create(title=type(self).__name__, author=author)
            self.assertEqual(query("SELECT title FROM written"), [(type(self).__name__,)])
    class Second(First): pass
"""


@pytest.mark.server
def test_functions_that_name_public_find_the_worker_s_tables(
    occupied: Project, place: str
) -> None:
    """Both workers have schemas, and each trigger writes to its worker's table."""
    path = "SET search_path = ''" if place == "test" else ""
    occupied.migration("0002_written", "0001_initial", NAMING_PUBLIC.replace("{}", path))
    occupied.tests(WRITING)
    result = occupied.run(*PARALLEL, "--host-database", place, env={"MEET": "2"}).passed()
    assert "2 schemas created, 2 dropped." in result.output
