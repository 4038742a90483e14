-- The freezes of the policy in force, for those who may not read the repository: the api tells when production is frozen.
ALTER TABLE repositories ADD COLUMN freezes jsonb NOT NULL DEFAULT '[]';
