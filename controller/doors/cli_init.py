"""What goes into the deploy.toml of a folder that has none? Looks at the folder, writes the file, by one rename."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from controller.decisions.initial import initial_deploy_toml
from controller.model.errors import Failed, Refused

DEPLOY_TOML = "deploy.toml"
