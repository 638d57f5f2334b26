"""Makes this repository nbgrader's course directory, with the course's own grader in it. See docs/teaching.md."""

from autograder.classroom.nbgrader_parts import install

c = get_config()  # noqa: F821  nbgrader provides it

c.CourseDirectory.course_id = "rlhf"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "lessons"

install(c)
