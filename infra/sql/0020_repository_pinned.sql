-- Names can be had by others once a repository is renamed; ids cannot. `forge_id` is that of the first look.
ALTER TABLE repositories ADD COLUMN replaced_by bigint;             -- the name leads to this other repository by now
ALTER TABLE repositories ADD COLUMN set_as text NOT NULL DEFAULT ''; -- OROBOROS_REPOSITORY_SET, when the id was taken
