"""Settings of ``trimtab doctor``."""

from pydantic import Field

from trimtab.data.formats import ReadSettings
from trimtab.sampling.choose import ENGINE_SENTENCE, EngineName


class Config(ReadSettings):
    """What is examined, and how far."""

    model: str = Field("", description="folder or hub name of a language model or a reward model")
    data: str = Field("", description="file of prompts, demonstrations or comparisons that is to be used with it, in any format")
    test: str = Field("", description="file of test records, whose prompts must not stand in data")
    max_length: int = Field(0, ge=0, description="longest prompt + completion of the training, in tokens; 0 = the model's positions")
    rows: int = Field(10_000, ge=1, description="records that are looked at closely; of a longer file so many are drawn")
    encode: int = Field(1_000, ge=1, description="of these, how many are put into the model's tokens")
    engine: EngineName = Field("native", description=ENGINE_SENTENCE)
    only: str = Field("", description="names of checks or groups to run, with commas between them; empty = all")
    skip: str = Field("", description="names of checks or groups to leave out, with commas between them")
    explain: bool = Field(False, description="say of every check what it means and what to do, not only where something was found")
    strict: bool = Field(False, description="exit with status 1 for warnings too")
    seed: int = Field(0, description="seed of the records that are drawn and of the answers that are sampled")
    out: list[str] = Field([], description="files to write the page to as well: .json for programs, .html for people")
    overwrite: bool = Field(False, description="replace files of out that are there")
